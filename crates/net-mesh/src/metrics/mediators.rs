//! Which mediators have a name in the labels?

use net_mesh_proto::id::NodeId;

/// Mediators that are told apart in metrics, for as long as the process runs; the others are one together. A node's
/// mediators are the members nearest to both sides, so the first few serve most of its rendezvous.
pub const MAX_MEDIATORS: usize = 8;

/// Where the two arranged it over their own session.
pub(super) const NOBODY: &str = "session";

/// Mediators without a name of their own.
pub(super) const OTHERS: &str = "other";

/// The mediators with a name, first come first.
#[derive(Debug, Default)]
pub(super) struct Mediators(Vec<(NodeId, String)>);

impl Mediators {
    /// What stands for `mediator` in a label; it stays the same while the process runs. `name` is what it goes by,
    /// empty where that is not known.
    pub(super) fn label(&mut self, mediator: Option<NodeId>, name: impl FnOnce(&NodeId) -> String) -> String {
        let Some(id) = mediator else { return NOBODY.to_owned() };
        if let Some((_, known)) = self.0.iter().find(|(known, _)| *known == id) {
            return known.clone();
        }
        if self.0.len() == MAX_MEDIATORS {
            return OTHERS.to_owned();
        }
        let name = name(&id);
        let taken = [NOBODY, OTHERS, ""].contains(&name.as_str()) || self.0.iter().any(|(_, n)| *n == name);
        // Names need not be unique.
        let label = match (taken, name.is_empty()) {
            (false, _) => name,
            (true, true) => id.short(),
            (true, false) => format!("{name} {}", id.short()),
        };
        self.0.push((id, label.clone()));
        label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_have_their_names_and_keep_them_and_all_others_are_one() {
        let mut mediators = Mediators::default();
        let mut label = |n: u8, name: &str| mediators.label(Some(NodeId([n; 32])), |_| name.to_owned());
        assert_eq!(label(1, "fra"), "fra");
        assert_eq!(label(1, "renamed"), "fra");
        let short = |n: u8| NodeId([n; 32]).short();
        assert_eq!(label(2, "fra"), format!("fra {}", short(2)));
        assert_eq!(label(3, ""), short(3));
        assert_eq!(label(4, "other"), format!("other {}", short(4)));
        for n in 5..=8 {
            assert_eq!(label(n, &n.to_string()), n.to_string());
        }
        for n in 9..=255 {
            assert_eq!(label(n, &n.to_string()), "other");
        }
        assert_eq!(label(2, ""), format!("fra {}", short(2)));
        assert_eq!(mediators.label(None, |_| unreachable!()), "session");
    }
}
