//! Which pings of the peer's have been heard before?

/// Nonces before the highest one that may still come: pings on several ways overtake each other.
pub const WINDOW: u64 = 63;

/// The highest nonce heard, and which of the [`WINDOW`] before it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    highest: u64,
    seen: u64,
}

impl Window {
    /// Whether `nonce` is heard for the first time. Notes it.
    pub(super) fn is_fresh(&mut self, nonce: u64) -> bool {
        if nonce > self.highest {
            let shift = u32::try_from(nonce - self.highest).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = nonce;
            return true;
        }
        let bit = 1u64.checked_shl(u32::try_from(self.highest - nonce).unwrap_or(u32::MAX)).unwrap_or(0);
        let fresh = bit != 0 && self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}
