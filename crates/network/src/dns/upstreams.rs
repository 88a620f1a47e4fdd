//! Whom we ask: the host's resolvers, or those of the settings.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const DNS_PORT: u16 = 53;
/// How long a look at the file's times is good for.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// As many as the C library reads. Source: resolv.conf(5), `MAXNS`.
const UPSTREAMS_MAX: usize = 3;

/// The list, as of now.
pub(crate) struct Upstreams {
    fixed: Option<Arc<[SocketAddr]>>,
    file: PathBuf,
    /// Never asked: that would be ourselves.
    gateway: Ipv4Addr,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    looked: Option<Instant>,
    /// Device, inode, size and time of the file, to notice a new one.
    stamp: (u64, u64, u64, i64, i64),
    list: Arc<[SocketAddr]>,
}

impl Upstreams {
    pub(crate) fn new(fixed: &[SocketAddr], file: PathBuf, gateway: Ipv4Addr) -> Self {
        let fixed = (!fixed.is_empty()).then(|| Arc::from(fixed));
        Self { fixed, file, gateway, seen: Mutex::default() }
    }

    /// Returns the list, reading the file again if it has changed.
    pub(crate) fn current(&self) -> Arc<[SocketAddr]> {
        if let Some(fixed) = &self.fixed {
            return fixed.clone();
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.looked.is_none_or(|looked| looked.elapsed() > LOOK_AGAIN) {
            seen.looked = Some(Instant::now());
            let stamp = fs::metadata(&self.file)
                .map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
                .unwrap_or_default();
            if stamp != seen.stamp || seen.list.is_empty() {
                seen.stamp = stamp;
                let text = fs::read_to_string(&self.file).unwrap_or_default();
                let addresses = parse_resolv_conf(&text).into_iter();
                seen.list = addresses
                    .filter(|address| *address != IpAddr::V4(self.gateway))
                    .map(|address| SocketAddr::new(address, DNS_PORT))
                    .collect();
            }
        }
        seen.list.clone()
    }
}

/// Returns the name servers of a resolv.conf(5); the local one if it names none.
pub(crate) fn parse_resolv_conf(text: &str) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            // Link-local IPv6 servers carry a zone (`fe80::1%eth0`), which we do not follow.
            (words.next()? == "nameserver").then(|| words.next()?.parse().ok()).flatten()
        })
        .take(UPSTREAMS_MAX)
        .collect();
    if addresses.is_empty() {
        addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 9.9.9.9\nsearch example\nnameserver 127.0.0.53\n\
                    nameserver\t2001:db8::1 # x\nnameserver nonsense\nnameserver 1.1.1.1\n\
                    nameserver 8.8.8.8\n";
        let expected = ["127.0.0.53", "2001:db8::1", "1.1.1.1"];
        assert_eq!(parse_resolv_conf(text), expected.map(|a| a.parse::<IpAddr>().unwrap()));
        assert_eq!(parse_resolv_conf(""), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }

    #[test]
    fn the_gateway_is_never_its_own_upstream() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "nameserver 10.77.0.1\nnameserver 10.0.0.1\n").unwrap();
        let upstreams = Upstreams::new(&[], file.path().to_owned(), Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(*upstreams.current(), ["10.0.0.1:53".parse::<SocketAddr>().unwrap()]);
    }
}
