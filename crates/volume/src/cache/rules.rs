//! The rules, breakable one by one in tests, which show that the model test would notice.

/// A rule to break. Each line names the rule of the module's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// 1: a sealed slot is never written.
    FreshSlot,
    /// 1: a fresh slot begins with the valid parts of the one before.
    CopyValid,
    /// 2: valid bits come after the data.
    DataBeforeValid,
    /// 2: only what is dirty and valid is packed.
    DirtyAndValid,
    /// 2: a fill sets only parts that are not valid.
    FillOnlyInvalid,
    /// 2: a fill is checked against the block's entry.
    FillChecksEntry,
    /// 3: data is durable before the record that names it.
    DataBeforeRecord,
    /// 3: masks are looked at before data is made durable.
    RecordsMasks,
    /// 4: a slot is reused only after its release is durable.
    ReleaseBeforeReuse,
    /// 5: a failed sync is final.
    ErrorsAreFinal,
    /// 6: what the head has is dropped.
    DropDurable,
    /// 6: clean slots stay only with the head's entry.
    CleanNeedsEntry,
    /// 6: clean slots stay only with the right checksum.
    CleanNeedsChecksum,
    /// 6: clean parts of open slots are dropped.
    DropCleanParts,
    /// 6: a named seal is rebuilt as its own epoch.
    NamedSealsStay,
    /// 6: a restore cuts.
    RestoreCuts,
    /// 7: what was written before somebody else's claim is stranded.
    Strand,
}

/// Which rules hold: all of them, outside of tests.
#[derive(Clone, Copy, Default)]
pub(super) struct Rules {
    #[cfg(test)]
    pub(super) broken: &'static [Rule],
}

impl Rules {
    #[cfg(test)]
    pub(super) fn keep(self, rule: Rule) -> bool {
        !self.broken.contains(&rule)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "as in tests")]
    pub(super) const fn keep(self, _: Rule) -> bool {
        true
    }
}
