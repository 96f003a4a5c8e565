//! The doctor: what can be said of a node from the facts it knows.
//!
//! | file | the question it answers |
//! |---|---|
//! | `conclude` | can the node work, and what would help? Pure: facts in, a conclusion out |
//! | `words` | how is that said? |
//! | `absent` | what can be known where no node runs? |
//! | `anonymize` | how can it be shown to strangers? |
//!
//! The node gathers the facts and draws the conclusion; whoever replaces names and addresses in the facts has
//! the same conclusion drawn again, so that no sentence keeps what its facts have lost.

mod absent;
mod anonymize;
mod conclude;
#[cfg(test)]
mod facts;
mod words;

pub(crate) use absent::absent;
pub(crate) use anonymize::anonymized;
pub(crate) use conclude::double_nat;

use crate::json::doctor::{AdviceJson, DoctorJson};

/// A report: facts as JSON, with a conclusion, and as text.
pub(crate) trait Report: serde::Serialize + serde::de::DeserializeOwned {
    /// Fills in what follows from the facts.
    fn conclude(&mut self);
    /// One fact a line; the last line is the verdict.
    fn text(&self) -> String;
    /// Whether the node can do its work.
    fn can_work(&self) -> bool;
}

impl Report for DoctorJson {
    fn conclude(&mut self) {
        let conclusion = conclude::conclude(self);
        self.can_work = conclusion.verdict.can_work();
        self.verdict = words::verdict(self, conclusion.verdict);
        self.improve = conclusion.hints.iter().map(|hint| words::hint(self, *hint)).collect();
    }

    fn text(&self) -> String {
        words::report(self)
    }

    fn can_work(&self) -> bool {
        self.can_work
    }
}

impl Report for crate::json::doctor::AbsentJson {
    fn conclude(&mut self) {
        (self.verdict, self.improve) = words::absent_conclusion(self);
    }

    fn text(&self) -> String {
        words::absent_report(self)
    }

    fn can_work(&self) -> bool {
        false
    }
}

impl Report for AdviceJson {
    fn conclude(&mut self) {
        self.verdict = words::advice_verdict(self);
    }

    fn text(&self) -> String {
        words::advice_report(self)
    }

    fn can_work(&self) -> bool {
        true
    }
}
