//! A server between a keeper and a kernel that are both sockets: needs no rights, and can be
//! shown any memory that a predecessor may leave.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use proptest::prelude::*;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::*;
use crate::abi;
use crate::abi::opcode;
use crate::device::{DeviceError, Done, Request};
use crate::layout::{ATTEMPTS, HEAD, OUT, REPLY_BYTES, STATE, State};

const LEN: u64 = 1 << 20;
const REQUEST_BYTES: u32 = 64 << 10;
const LIMIT: Duration = Duration::from_secs(30);

/// Remembers what it was asked, and reads everything as sevens.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn seen(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Device for Recorder {
    fn len_bytes(&self) -> u64 {
        LEN
    }

    fn submit(&self, request: Request, done: Done) {
        let (text, range) = match request {
            Request::Read { offset, mut buffer } => {
                buffer.fill(7);
                (format!("read {offset} {}", buffer.len()), (offset, buffer.len() as u64))
            }
            Request::Write { offset, data } => (
                format!("write {offset} {} of {}", data.len(), data[0]),
                (offset, data.len() as u64),
            ),
            Request::Flush => ("flush".to_owned(), (0, 512)),
            Request::Zero { offset, len, discard } => {
                (format!("zero {offset} {len} {discard}"), (offset, len))
            }
        };
        let (offset, len) = range;
        assert!(len > 0 && offset % 512 == 0 && len % 512 == 0 && offset + len <= LEN, "{text}");
        self.0.lock().unwrap().push(text);
        done.finish(if offset == 8192 { Err(DeviceError::Io) } else { Ok(()) });
    }
}

/// The memory of two slots or more, and the other ends of the sockets.
struct Bench {
    memory: File,
    kernel: OwnedFd,
    layout: Layout,
    granted: Option<Granted>,
    _keeper: OwnedFd,
}

impl Bench {
    fn new(slots: u16) -> Self {
        let layout = Layout::new(slots, REQUEST_BYTES, LEN).unwrap();
        let pair = || {
            let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
            rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).unwrap()
        };
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let memory = File::from(rustix::fs::memfd_create("slots", flags).unwrap());
        memory.set_len(layout.total_bytes() as u64).unwrap();
        memory.write_all_at(&layout.encode(), 0).unwrap();
        let ((kernel, fuse), (_keeper, keeper)) = (pair(), pair());
        let granted = Granted {
            fuse,
            memory: memory.try_clone().unwrap().into(),
            mount: memory.try_clone().unwrap().into(),
            keeper,
            incarnation: 1,
            deposits: Vec::new(),
        };
        Self { memory, kernel, layout, granted: Some(granted), _keeper }
    }

    fn put(&self, slot: u16, at: usize, bytes: &[u8]) {
        let offset = self.layout.slot_offset(slot) + at;
        self.memory.write_all_at(bytes, offset as u64).unwrap();
    }

    fn word(&self, slot: u16, at: usize) -> u32 {
        let mut bytes = [0; 4];
        let offset = self.layout.slot_offset(slot) + at;
        self.memory.read_exact_at(&mut bytes, offset as u64).unwrap();
        u32::from_ne_bytes(bytes)
    }

    /// Leaves a request in a slot, as a predecessor would.
    fn leave(&self, slot: u16, state: State, head: &[u8]) {
        self.put(slot, HEAD.0, head);
        self.put(slot, STATE, &state.number().to_ne_bytes());
    }

    fn start(&mut self, device: &Arc<Recorder>) -> Result<Server, StartError> {
        let device: Arc<dyn Device> = Arc::<Recorder>::clone(device);
        let settings = Settings { threads: 1, ..Settings::default() };
        Server::start(self.granted.take().unwrap(), device, &settings)
    }

    /// All replies that have come, as number, error and body.
    fn replies(&self) -> Vec<(u64, i32, Vec<u8>)> {
        let mut replies = Vec::new();
        let mut buffer = vec![0; 128 << 10];
        while let Ok((len, _)) =
            rustix::net::recv(&self.kernel, &mut buffer[..], RecvFlags::DONTWAIT)
        {
            if len == 0 {
                break; // the server is gone
            }
            assert_eq!(buffer[..4], u32::try_from(len).unwrap().to_ne_bytes());
            let error = i32::from_ne_bytes(buffer[4..8].try_into().unwrap());
            let unique = u64::from_ne_bytes(buffer[8..16].try_into().unwrap());
            replies.push((unique, -error, buffer[16..len].to_vec()));
        }
        replies
    }
}

fn head(opcode: u32, unique: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut head = vec![0; HEAD.1];
    let total = if opcode == opcode::WRITE { 80 + len } else { 80 };
    head[..4].copy_from_slice(&total.to_ne_bytes());
    head[4..8].copy_from_slice(&opcode.to_ne_bytes());
    head[8..16].copy_from_slice(&unique.to_ne_bytes());
    head[16..24].copy_from_slice(&2u64.to_ne_bytes());
    head[48..56].copy_from_slice(&offset.to_ne_bytes());
    head[56..60].copy_from_slice(&len.to_ne_bytes());
    head
}

/// Every state that a death can leave, side by side.
#[test]
fn each_slot_is_dealt_with_by_its_state() {
    let mut bench = Bench::new(8);
    let data = crate::layout::CONTROL_BYTES;
    // What an earlier request has left in a free slot is nothing.
    bench.leave(0, State::Free, &head(opcode::WRITE, 10, 0, 4096));
    bench.leave(1, State::Armed, &[0; HEAD.1]);
    bench.leave(2, State::Armed, &head(opcode::WRITE, 12, 4096, 4096));
    bench.put(2, data, &[5; 4096]);
    bench.leave(3, State::Taken, &head(opcode::READ, 13, 65536, 512));
    bench.put(3, ATTEMPTS, &4u32.to_ne_bytes());
    bench.leave(4, State::Taken, &head(opcode::WRITE, 14, 8192, 512));
    bench.leave(5, State::Taken, &head(opcode::FORGET, 15, 0, 0));
    bench.leave(6, State::Done, &head(opcode::WRITE, 16, 0, 4096));
    let mut answer = [0; 24];
    abi::write_out_header(&mut answer, 16, 0, 8);
    answer[16] = 99;
    bench.put(6, OUT, &answer);
    bench.put(6, REPLY_BYTES.0, &8u32.to_ne_bytes());
    bench.leave(7, State::Taken, &head(opcode::FSYNC, 17, 0, 0));

    let device = Arc::new(Recorder::default());
    let mut server = bench.start(&device).unwrap();
    let expected = Recovery { executed: 5, unseen: 1, answered: 1, attempts_max: 5 };
    assert_eq!(server.recovery(), expected);
    let executed = ["write 4096 4096 of 5", "read 65536 512", "write 8192 512 of 0", "flush"];
    assert_eq!(device.seen(), executed);
    let written = |len: u32| [len.to_ne_bytes(), [0; 4]].concat();
    let replies = [
        (12, 0, written(4096)),
        (13, 0, vec![7; 512]),
        (14, libc::EIO, vec![]),
        (16, 0, [&[99][..], &[0; 7]].concat()),
        (17, 0, vec![]),
    ];
    assert_eq!(bench.replies(), replies);
    server.drain(LIMIT).unwrap();
    assert!((0..8).all(|slot| bench.word(slot, STATE) == State::Free.number()));
}

#[test]
fn memory_that_is_not_understood_is_not_touched() {
    let device = Arc::new(Recorder::default());
    let mut state = Bench::new(3);
    state.leave(0, State::Taken, &head(opcode::WRITE, 1, 0, 512));
    state.put(1, STATE, &4u32.to_ne_bytes());
    let error = state.start(&device).err().unwrap();
    assert!(matches!(error, StartError::State { slot: 1, state: 4 }), "{error}");
    for (bytes, from_data, stated) in [(4096u32, 0u32, 4112), (1 << 20, 1, 16), (8, 0, 16)] {
        let mut reply = Bench::new(3);
        reply.leave(0, State::Taken, &head(opcode::WRITE, 1, 0, 512));
        reply.leave(2, State::Done, &head(opcode::WRITE, 1, 0, 512));
        reply.put(2, OUT, &u32::to_ne_bytes(stated));
        reply.put(2, REPLY_BYTES.0, &bytes.to_ne_bytes());
        reply.put(2, REPLY_BYTES.1, &from_data.to_ne_bytes());
        let error = reply.start(&device).err().unwrap();
        assert!(matches!(error, StartError::Reply { slot: 2 }), "{error}");
        assert_eq!(reply.word(0, ATTEMPTS), 0);
    }
    let mut version = Bench::new(3);
    version.leave(0, State::Taken, &head(opcode::WRITE, 1, 0, 512));
    version.memory.write_all_at(&9u32.to_ne_bytes(), 8).unwrap();
    let error = version.start(&device).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let mut short = Bench::new(3);
    short.memory.set_len(short.layout.total_bytes() as u64 - 4096).unwrap();
    assert!(matches!(short.start(&device).err().unwrap(), StartError::Layout { .. }));
    for bench in [&state, &version] {
        assert_eq!(bench.word(0, STATE), State::Taken.number());
        assert_eq!(bench.word(0, ATTEMPTS), 0);
        assert!(bench.replies().is_empty());
    }
    assert!(device.seen().is_empty());
}

/// With one thread the order shows: first the slots, then what waits in the kernel.
#[test]
fn nothing_is_read_before_all_slots_are_dealt_with() {
    let mut bench = Bench::new(4);
    for slot in [3, 1] {
        bench.leave(slot, State::Taken, &head(opcode::FSYNC, slot.into(), 0, 0));
    }
    let mut request = head(opcode::WRITE, 50, 0, 512);
    request.extend([6; 512]);
    rustix::net::send(&bench.kernel, &request, SendFlags::empty()).unwrap();
    let device = Arc::new(Recorder::default());
    let mut server = bench.start(&device).unwrap();
    let started = std::time::Instant::now();
    while device.seen().len() < 3 {
        assert!(started.elapsed() < LIMIT, "the request is not read");
        std::thread::sleep(Duration::from_millis(1));
    }
    server.drain(LIMIT).unwrap();
    assert_eq!(device.seen(), ["flush", "flush", "write 0 512 of 6"]);
    let replies: Vec<u64> = bench.replies().iter().map(|reply| reply.0).collect();
    assert_eq!(replies, [1, 3, 50]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Whatever lies in the slots: the device gets only what it may get, nothing panics, and
    /// every request that is owed a reply gets one.
    #[test]
    fn any_memory_is_survived(
        slots in proptest::collection::vec(
            (
                0u32..4,
                prop_oneof![Just(15u32), Just(16), Just(20), Just(43), 0u32..60],
                prop_oneof![Just(80u32), Just(80 + 4096), 0u32..70_000, any::<u32>()],
                proptest::collection::vec(any::<u8>(), HEAD.1),
                prop_oneof![0u64..(2 << 20), any::<u64>()],
            ),
            2..5,
        )
    ) {
        let mut bench = Bench::new(u16::try_from(slots.len()).unwrap());
        let mut owed = 0;
        for (slot, (state, opcode, len, mut bytes, offset)) in slots.into_iter().enumerate() {
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
            bytes[16..24].copy_from_slice(&2u64.to_ne_bytes());
            bytes[48..56].copy_from_slice(&(offset & !511).to_ne_bytes());
            bytes[56..60].copy_from_slice(&len.saturating_sub(80).to_ne_bytes());
            let state = State::from_number(state).unwrap();
            bench.leave(u16::try_from(slot).unwrap(), state, &bytes);
            let forgotten = opcode == opcode::FORGET || opcode == opcode::BATCH_FORGET;
            let known = (40..=80 + REQUEST_BYTES).contains(&len);
            owed += usize::from(match state {
                State::Free => false,
                State::Armed => len != 0 && !(forgotten && known),
                State::Taken => !(forgotten && known),
                // Wrong lengths are refused, which is a test of its own.
                State::Done => {
                    let mut answer = [0; 16];
                    abi::write_out_header(&mut answer, 1, 0, 0);
                    bench.put(u16::try_from(slot).unwrap(), OUT, &answer);
                    true
                }
            });
        }
        let mut server = bench.start(&Arc::new(Recorder::default())).unwrap();
        server.drain(LIMIT).unwrap();
        prop_assert_eq!(bench.replies().len(), owed);
    }
}

fn cases() -> u32 {
    std::env::var("SPRITES_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(64)
}
