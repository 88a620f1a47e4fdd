//! Which ports opened and closed since last time. Decides, without I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sprite_link::guest::PortEvent;
use sprite_types::SessionId;

use super::diag::Listener;

/// A listener that was announced.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Open {
    session: Option<SessionId>,
    pid: i32,
}

/// What was announced so far.
#[derive(Debug, Default)]
pub(crate) struct PortWatch {
    open: BTreeMap<(u16, IpAddr), Open>,
}

impl PortWatch {
    /// Compares with the listeners of this moment and returns what to tell whom. `owner` gives
    /// the session of a cgroup, `pid_of` the process that holds a socket; it is asked only about
    /// new listeners.
    pub(crate) fn update(
        &mut self,
        now: &[Listener],
        owner: impl Fn(u64) -> Option<SessionId>,
        pid_of: impl Fn(&Listener) -> i32,
    ) -> Vec<(SessionId, PortEvent)> {
        let mut events = Vec::new();
        self.open.retain(|&(port, address), open| {
            let stays = now.iter().any(|l| l.port == port && l.address == address);
            if let (false, Some(session)) = (stays, open.session) {
                events.push((session, event("port_closed", port, address, open.pid)));
            }
            stays
        });
        for listener in now {
            let key = (listener.port, listener.address);
            if self.open.contains_key(&key) {
                continue;
            }
            let session = owner(listener.cgroup);
            let pid = if session.is_some() { pid_of(listener) } else { 0 };
            if let Some(session) = session {
                let opened = event("port_opened", listener.port, listener.address, pid);
                events.push((session, opened));
            }
            self.open.insert(key, Open { session, pid });
        }
        events
    }
}

/// Makes the event of the public contract (exec-protocol 6).
pub(crate) fn event(kind: &str, port: u16, address: IpAddr, pid: i32) -> PortEvent {
    PortEvent { kind: kind.to_owned(), port, address: address.to_string(), pid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_announced_once_to_its_own_session() {
        let listener =
            |port, cgroup| Listener { address: IpAddr::from([0, 0, 0, 0]), port, inode: 1, cgroup };
        let owner = |cgroup| (cgroup == 7).then_some(SessionId(42));
        let mut watch = PortWatch::default();
        let now = [listener(80, 7), listener(81, 9)];
        let events = watch.update(&now, owner, |_| 5);
        let opened = event("port_opened", 80, [0, 0, 0, 0].into(), 5);
        assert_eq!(events, [(SessionId(42), opened)]);
        assert_eq!(watch.update(&now, owner, |_| 5), []);
        // The session may be over by the time its port closes.
        let events = watch.update(&[listener(81, 9)], |_| None, |_| 5);
        let closed = event("port_closed", 80, [0, 0, 0, 0].into(), 5);
        assert_eq!(events, [(SessionId(42), closed)]);
    }
}
