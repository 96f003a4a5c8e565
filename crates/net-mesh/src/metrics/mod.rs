//! What can be measured of a node, through the facade of the crate [`metrics`].
//!
//! Nothing is recorded unless the program has installed a recorder, such as an exporter for Prometheus, before the
//! node starts. [`all`] lists every metric there can be.
//!
//! | file | the question it answers |
//! |---|---|
//! | `table` | which metrics are there? |
//! | `publish` | what has the node counted since it was last asked? |
//! | `happened` | what does an event of the node add? |
//! | `mediators` | which mediators have a name in the labels? |
//!
//! **Flow.** Rare events, such as the end of a rendezvous, are recorded as they happen. What is counted for every
//! packet is counted in integers of the node's own, and carried over once a second: no packet waits for a recorder.
//!
//! **Bounds.** Labels have the values that the table lists, and so does the number of series. Only the names of
//! mediators are the mesh's: at most [`MAX_MEDIATORS`] of them get one.
//!
//! Where several nodes run in one process, what they count adds up; a gauge says what one of them said last.

mod happened;
mod mediators;
#[cfg(all(test, feature = "nat-traversal"))]
mod mesh_tests;
mod publish;
mod table;
#[cfg(test)]
mod tests;

use ::metrics::{Key, Label as KeyLabel, Level, Metadata, SharedString};
#[cfg(feature = "port-mapping")]
pub(crate) use happened::of_router_request;
pub(crate) use happened::{Happened, of_network_change, of_port_mapping_event};
pub use mediators::MAX_MEDIATORS;
pub(crate) use publish::Publisher;
pub use table::all;

/// How the values of a metric are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// It only grows, from zero at the start of the process.
    Counter,
    /// What is at present.
    Gauge,
}

impl Kind {
    /// The word that Prometheus has for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// The values that a label can have.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Values {
    /// These.
    Of(fn() -> Vec<&'static str>),
    /// Others; a few words say which, and how many at most.
    Open(&'static str),
}

/// A label of a metric.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it can be.
    pub values: Values,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, after Prometheus' conventions: with its unit, and `_total` at the end of a counter's.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [Label],
    /// What it says, in a sentence.
    pub help: &'static str,
}

const METADATA: Metadata<'static> = Metadata::new("net_mesh", Level::INFO, Some(module_path!()));

impl Metric {
    /// The series with these values of its labels, in the order of the table.
    fn key<const N: usize>(&self, values: [SharedString; N]) -> Key {
        debug_assert_eq!(self.labels.len(), N, "{}", self.name);
        let labels = self.labels.iter().zip(values);
        Key::from_parts(self.name, labels.map(|(l, value)| KeyLabel::new(l.name, value)).collect::<Vec<_>>())
    }

    fn add<const N: usize>(&self, values: [&'static str; N], count: u64) {
        self.add_to(values.map(SharedString::const_str), count);
    }

    fn add_to<const N: usize>(&self, values: [SharedString; N], count: u64) {
        let key = self.key(values);
        ::metrics::with_recorder(|recorder| recorder.register_counter(&key, &METADATA).increment(count));
    }

    fn set<const N: usize>(&self, values: [&'static str; N], value: f64) {
        let key = self.key(values.map(SharedString::const_str));
        ::metrics::with_recorder(|recorder| recorder.register_gauge(&key, &METADATA).set(value));
    }

    fn describe(&self) {
        let (name, help) = (self.name.into(), self.help.into());
        ::metrics::with_recorder(|recorder| match self.kind {
            Kind::Counter => recorder.describe_counter(name, None, help),
            Kind::Gauge => recorder.describe_gauge(name, None, help),
        });
    }
}

/// Tells the recorder what each metric says.
pub(crate) fn describe() {
    for metric in all() {
        metric.describe();
    }
}
