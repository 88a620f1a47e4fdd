use proptest::prelude::*;

use super::*;

fn layout() -> Layout {
    Layout::new(4, 64 << 10, 1 << 20).unwrap()
}

/// A request as the kernel writes it, body after the header.
fn request(opcode: u32, node: u64, len: usize, body: &[u8]) -> [u8; HEAD.1] {
    let mut head = [0; HEAD.1];
    head[..4].copy_from_slice(&u32::try_from(len).unwrap().to_ne_bytes());
    head[4..8].copy_from_slice(&opcode.to_ne_bytes());
    head[8..16].copy_from_slice(&77u64.to_ne_bytes());
    head[16..24].copy_from_slice(&node.to_ne_bytes());
    head[40..40 + body.len()].copy_from_slice(body);
    head
}

fn transfer(opcode: u32, offset: u64, len: u32) -> Call {
    let mut body = [0; 40];
    body[8..16].copy_from_slice(&offset.to_ne_bytes());
    body[16..20].copy_from_slice(&len.to_ne_bytes());
    let total = if opcode == opcode::WRITE { 80 + len as usize } else { 80 };
    parse(&request(opcode, DISK_NODE, total, &body), &layout())
}

fn fallocate(offset: u64, len: u64, mode: u32) -> Call {
    let mut body = [0; 32];
    body[8..16].copy_from_slice(&offset.to_ne_bytes());
    body[16..24].copy_from_slice(&len.to_ne_bytes());
    body[24..28].copy_from_slice(&mode.to_ne_bytes());
    parse(&request(opcode::FALLOCATE, DISK_NODE, 72, &body), &layout())
}

fn error(error: i32) -> Call {
    Call::Answer(Answer::Error(error))
}

#[test]
fn transfers_inside_the_disk_reach_the_device() {
    assert_eq!(transfer(opcode::READ, 4096, 65536), Call::Read { offset: 4096, len: 65536 });
    assert_eq!(transfer(opcode::WRITE, 512, 512), Call::Write { offset: 512, len: 512 });
    let end = (1 << 20) - 4096;
    assert_eq!(transfer(opcode::WRITE, end, 4096), Call::Write { offset: end, len: 4096 });
}

#[test]
fn a_read_over_the_end_is_cut_and_one_beyond_is_empty() {
    let end = (1 << 20) - 4096;
    assert_eq!(transfer(opcode::READ, end, 8192), Call::Read { offset: end, len: 4096 });
    assert_eq!(transfer(opcode::READ, 1 << 20, 4096), Call::Answer(Answer::Empty));
    assert_eq!(transfer(opcode::READ, u64::MAX, 4096), Call::Answer(Answer::Empty));
}

#[test]
fn a_write_over_the_end_or_of_odd_bytes_is_refused() {
    assert_eq!(transfer(opcode::WRITE, (1 << 20) - 4096, 8192), error(libc::EFBIG));
    assert_eq!(transfer(opcode::WRITE, u64::MAX - 511, 512), error(libc::EFBIG));
    assert_eq!(transfer(opcode::WRITE, 1, 512), error(libc::EINVAL));
    assert_eq!(transfer(opcode::WRITE, 0, 100), error(libc::EINVAL));
    assert_eq!(transfer(opcode::READ, 0, 100), error(libc::EINVAL));
}

/// The length that the body states must be the one that came: the rest of the slot holds data
/// of older requests.
#[test]
fn a_write_whose_lengths_differ_is_refused() {
    let mut body = [0; 40];
    body[16..20].copy_from_slice(&8192u32.to_ne_bytes());
    let head = request(opcode::WRITE, DISK_NODE, 80 + 4096, &body);
    assert_eq!(parse(&head, &layout()), error(libc::EIO));
}

#[test]
fn zeroing_and_discarding_are_told_apart_and_allocation_is_refused() {
    let zero = |discard| Call::Zero { offset: 0, len: 65536, discard };
    assert_eq!(fallocate(0, 65536, 3), zero(true));
    assert_eq!(fallocate(0, 65536, 17), zero(false));
    assert_eq!(fallocate(0, 65536, 16), zero(false));
    assert_eq!(fallocate(0, 65536, 0), error(libc::EOPNOTSUPP));
    assert_eq!(fallocate(0, 65536, 1), error(libc::EOPNOTSUPP));
    assert_eq!(fallocate(0, 65536, 8 | 3), error(libc::EOPNOTSUPP));
    assert_eq!(fallocate(0, 2 << 20, 3), error(libc::EFBIG));
    assert_eq!(fallocate(u64::MAX, 512, 3), error(libc::EFBIG));
    assert_eq!(fallocate(0, 0, 3), error(libc::EINVAL));
}

#[test]
fn only_the_disk_is_found() {
    let lookup =
        |node, name: &[u8]| parse(&request(opcode::LOOKUP, node, 40 + name.len(), name), &layout());
    assert_eq!(lookup(ROOT_NODE, b"disk\0"), Call::Answer(Answer::Entry));
    assert_eq!(lookup(ROOT_NODE, b"disk"), error(libc::ENOENT));
    assert_eq!(lookup(ROOT_NODE, b"disks\0"), error(libc::ENOENT));
    assert_eq!(lookup(DISK_NODE, b"disk\0"), error(libc::ENOENT));
    assert_eq!(lookup(ROOT_NODE, b""), error(libc::ENOENT));
}

/// ENOSYS ends a kind of request for the life of the connection, so these must never get it.
#[test]
fn requests_that_a_disk_needs_are_never_answered_with_enosys() {
    for node in [ROOT_NODE, DISK_NODE, 3] {
        for opcode in [opcode::FSYNC, opcode::FALLOCATE, opcode::READ, opcode::WRITE] {
            for len in [0, 40, 60, 72, 80, 80 + (64 << 10), usize::from(u16::MAX) * 4] {
                let call = parse(&request(opcode, node, len, &[0xff; 40]), &layout());
                assert_ne!(call, error(libc::ENOSYS), "opcode {opcode} node {node} len {len}");
            }
        }
    }
    for failure in [DeviceError::Io, DeviceError::NoSpace] {
        assert_ne!(errno(failure), libc::ENOSYS);
    }
    const FLUSH: u32 = 25;
    const INTERRUPT: u32 = 36;
    for opcode in [FLUSH, INTERRUPT] {
        assert_eq!(parse(&request(opcode, DISK_NODE, 64, &[]), &layout()), error(libc::ENOSYS));
    }
}

/// The lengths of the kernel's structures. A reply of another length is refused by the kernel,
/// and the request then fails.
#[test]
fn answers_are_as_long_as_the_kernels_structures() {
    let mut body = [0; 240];
    let mut len = |answer| write_answer(&mut body, answer, &layout(), 65536);
    assert_eq!(len(Answer::Entry), (0, 128));
    assert_eq!(len(Answer::Attributes { node: DISK_NODE }), (0, 104));
    assert_eq!(len(Answer::Opened { is_disk: true }), (0, 16));
    assert_eq!(len(Answer::FileSystem), (0, 80));
    assert_eq!(len(Answer::Written { len: 9 }), (0, 8));
    assert_eq!(len(Answer::Empty), (0, 0));
    assert_eq!(len(Answer::Error(5)), (5, 0));
}

proptest! {
    /// Whatever the kernel, or memory of a dead process, says: what reaches the device fits the
    /// disk and the slot.
    #[test]
    fn whatever_comes_in_what_reaches_the_device_fits(
        opcode in prop_oneof![Just(15u32), Just(16), Just(43), 0u32..60],
        node in 0u64..4,
        len in prop_oneof![0u32..200, Just(80 + 4096), Just(80 + 65536), any::<u32>()],
        body in proptest::collection::vec(any::<u8>(), 40),
        offset in prop_oneof![0u64..(3 << 20), any::<u64>()],
        size in prop_oneof![Just(4096u64), Just(65536), 0u64..(1 << 21), any::<u64>()],
    ) {
        let mut body = body;
        body[8..16].copy_from_slice(&(offset & !511).to_ne_bytes());
        body[16..24].copy_from_slice(&size.to_ne_bytes());
        let layout = layout();
        let head = request(opcode, node, len as usize, &body);
        let (offset, len) = match parse(&head, &layout) {
            Call::Read { offset, len } | Call::Write { offset, len } => {
                prop_assert!(len <= layout.request_bytes());
                (offset, u64::from(len))
            }
            Call::Zero { offset, len, .. } => (offset, len),
            _ => return Ok(()),
        };
        prop_assert!(len > 0 && offset % 512 == 0 && len % 512 == 0);
        prop_assert!(offset.checked_add(len).is_some_and(|end| end <= layout.len_bytes()));
    }
}
