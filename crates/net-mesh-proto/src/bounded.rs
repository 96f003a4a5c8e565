//! Maps that cannot grow past a bound, with the eviction in the type.

use alloc::collections::BTreeMap;

/// A map of at most `capacity` entries that forgets the least recently written one.
///
/// Iteration is in key order, so it is the same on every run. Finding the oldest entry is linear:
/// these tables are small, and eviction happens under attack or overload only.
#[derive(Clone, Debug)]
pub struct BoundedMap<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    capacity: usize,
    clock: u64,
}

impl<K: Ord + Clone, V> BoundedMap<K, V> {
    /// A map for at most `capacity` entries; at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { entries: BTreeMap::new(), capacity: capacity.max(1), clock: 0 }
    }

    /// Sets `key` to `value` and marks it as most recent. Returns the entry evicted for it, if any.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        self.clock += 1;
        let evicted = if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.evict_oldest()
        } else {
            None
        };
        self.entries.insert(key, (self.clock, value));
        evicted
    }

    fn evict_oldest(&mut self) -> Option<(K, V)> {
        let oldest = self.entries.iter().min_by_key(|(_, (at, _))| *at).map(|(k, _)| k.clone())?;
        let (_, value) = self.entries.remove(&oldest)?;
        Some((oldest, value))
    }

    /// The value of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, v)| v)
    }

    /// The value of `key`, for changing it in place. Does not mark it as recent.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, v)| v)
    }

    /// The value of `key`, made if there is none, for changing it in place. Marks it as most recent.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.clock += 1;
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.evict_oldest();
        }
        let (at, value) = self.entries.entry(key).or_insert_with(|| (0, make()));
        *at = self.clock;
        value
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, v)| v)
    }

    /// Whether `key` is present.
    pub fn contains_key(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// Keeps the entries for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain(|k, (_, v)| keep(k, v));
    }

    /// The entries in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(k, (_, v))| (k, v))
    }

    /// The entries in key order, for changing the values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.entries.iter_mut().map(|(k, (_, v))| (k, v))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_map_forgets_what_was_written_longest_ago() {
        let mut map = BoundedMap::new(2);
        assert_eq!(map.insert(1, 'a'), None);
        assert_eq!(map.insert(2, 'b'), None);
        assert_eq!(map.insert(1, 'c'), None, "a rewrite needs no room");
        assert_eq!(map.insert(3, 'd'), Some((2, 'b')));
        assert_eq!(map.len(), 2);
        map.get_or_insert_with(1, || 'x').make_ascii_uppercase();
        assert_eq!(map.get_or_insert_with(4, || 'd'), &'d');
        assert_eq!((map.get(&1), map.get(&3)), (Some(&'C'), None), "a change counts as writing");
    }
}
