//! Defects that can be switched on, so that tests of whole clusters can show that they would notice.
//!
//! Only builds with the feature `defects` have them, and no build that anybody uses has it. There the
//! variable `TIDELOG_DEFECT` names the one that is on; see `docs/jepsen.md`.

/// Something done wrongly on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// `ack-before-write`: the journal tells that entries are durable a while before it writes them.
    AckBeforeWrite,
    /// `ack-before-fsync`: the journal writes, and never syncs.
    AckBeforeFsync,
    /// `apply-before-commit`: a leader takes entries for committed that only it has: it counts what
    /// followers have been sent as if they had answered.
    ApplyBeforeCommit,
    /// `no-dedupe`: a batch that is sent again is written again.
    NoDedupe,
    /// `last-stable-offset`: it lies one beyond the first record of an open transaction.
    LastStableOffset,
}

impl Defect {
    /// Whether it is switched on.
    #[cfg(feature = "defects")]
    pub fn is_on(self) -> bool {
        use std::sync::OnceLock;
        static ON: OnceLock<String> = OnceLock::new();
        let on = ON.get_or_init(|| std::env::var("TIDELOG_DEFECT").unwrap_or_default());
        let name = match self {
            Defect::AckBeforeWrite => "ack-before-write",
            Defect::AckBeforeFsync => "ack-before-fsync",
            Defect::ApplyBeforeCommit => "apply-before-commit",
            Defect::NoDedupe => "no-dedupe",
            Defect::LastStableOffset => "last-stable-offset",
        };
        on == name
    }

    /// Never.
    #[cfg(not(feature = "defects"))]
    pub const fn is_on(self) -> bool {
        false
    }
}
