//! What a listing looked like some changes ago.

use std::collections::VecDeque;

use crate::backend::{ObjectInfo, Page};
use crate::{Key, Prefix};

const CHANGES_MAX: usize = 64;

/// The newest changes, oldest first, each with what was there before.
#[derive(Default)]
pub(super) struct Past(VecDeque<(Key, Option<ObjectInfo>)>);

impl Past {
    pub(super) fn changed(&mut self, key: Key, before: Option<ObjectInfo>) {
        if self.0.len() == CHANGES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((key, before));
    }

    /// Takes back the newest changes on a page; with `revive` also deletions.
    pub(super) fn take_back(&self, page: &mut Page, prefix: &Prefix, changes: usize, revive: bool) {
        let newest_first = self.0.iter().rev().take(changes);
        for (key, before) in newest_first.filter(|(key, _)| key.is_under(prefix)) {
            let listed = page.objects.iter().position(|object| object.key == *key);
            let listed = listed.map(|at| page.objects.remove(at));
            if let Some(before) = before
                && (listed.is_some() || revive)
            {
                page.objects.push(before.clone());
            }
        }
        page.objects.sort();
    }
}

#[cfg(test)]
mod tests {
    use sprite_types::Timestamp;

    use super::*;

    #[test]
    fn undone_changes_give_the_page_of_before() {
        let object = |name: &str, size| ObjectInfo {
            key: name.parse().unwrap(),
            size,
            modified: Timestamp::from_micros(0),
        };
        let mut past = Past::default();
        past.changed("a".parse().unwrap(), None);
        past.changed("b".parse().unwrap(), Some(object("b", 1)));
        past.changed("c".parse().unwrap(), Some(object("c", 1)));
        let page = |changes, revive| {
            // Now: `a` was created, `b` overwritten, `c` deleted.
            let mut page =
                Page { objects: vec![object("a", 1), object("b", 2)], ..Page::default() };
            past.take_back(&mut page, &Prefix::root(), changes, revive);
            page.objects
        };
        assert_eq!(page(1, true), [object("a", 1), object("b", 2), object("c", 1)]);
        assert_eq!(page(1, false), [object("a", 1), object("b", 2)]);
        assert_eq!(page(2, true), [object("a", 1), object("b", 1), object("c", 1)]);
        assert_eq!(page(9, true), [object("b", 1), object("c", 1)]);
    }
}
