//! Which devices a machine's processes may open: a second line behind the user namespace, which
//! keeps them from making device nodes, and the mount flags, which disarm those on the disk.

use rustix::fs::{CWD, Mode, OFlags};

use super::error::CgroupError;
use super::files;
use super::machine::MachineCgroup;
use crate::sys::{self, BpfInstruction};

/// Character devices that may be read and written: major number and, unless all, minor number.
const ALLOWED: [(u32, Option<u32>); 17] = [
    (1, Some(3)),    // null
    (1, Some(5)),    // zero
    (1, Some(7)),    // full
    (1, Some(8)),    // random
    (1, Some(9)),    // urandom
    (5, Some(0)),    // tty
    (5, Some(2)),    // ptmx
    (10, Some(200)), // net/tun
    (10, Some(229)), // fuse
    (136, None),     // terminals
    (137, None),
    (138, None),
    (139, None),
    (140, None),
    (141, None),
    (142, None),
    (143, None),
];

impl MachineCgroup {
    /// Confines the machine to its devices, wherever the host has the means: the `devices`
    /// controller of version 1, a program attached to the cgroup2 directory, or both. Returns
    /// whether there was any.
    pub(super) fn confine_devices(&self) -> Result<bool, CgroupError> {
        let controller = self.v1_with("devices.deny");
        if let Some(directory) = controller {
            files::write(&directory.join("devices.deny"), "a")?;
            for (major, minor) in ALLOWED {
                let minor = minor.map_or_else(|| "*".to_owned(), |minor| minor.to_string());
                let rule = format!("c {major}:{minor} rw");
                files::write(&directory.join("devices.allow"), &rule)?;
            }
        }
        // A kernel may lack the program type.
        let program = self.cgroup2_dir().is_some_and(|directory| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, &directory, flags, Mode::empty())
                .is_ok_and(|group| sys::attach_device_filter(group, &program()).is_ok())
        });
        Ok(controller.is_some() || program)
    }
}

/// Builds the cgroup2 program: returns 1 to allow, 0 to refuse. Its argument is the kernel's
/// `struct bpf_cgroup_dev_ctx`: access and type in one word, then major and minor number.
fn program() -> Vec<BpfInstruction> {
    const CHARACTER: i32 = 2;
    const MAKE_NODE: i32 = 1 << 16;
    let mut program = vec![
        load(2, 0),
        load(4, 4),
        load(5, 8),
        // r3 = type; only character devices.
        copy(3, 2),
        and(3, 0xffff),
        if_equal(3, CHARACTER, 2),
        set(0, 0),
        exit(),
        // r2 = access; no node is made.
        and(2, MAKE_NODE),
        if_equal(2, 0, 2),
        set(0, 0),
        exit(),
    ];
    for (major, minor) in ALLOWED {
        let verdict = [set(0, 1), exit()];
        let minor = minor.map(|minor| if_not_equal(5, minor as i32, verdict.len() as i16));
        let skip = verdict.len() + usize::from(minor.is_some());
        program.push(if_not_equal(4, major as i32, skip as i16));
        program.extend(minor);
        program.extend(verdict);
    }
    program.extend([set(0, 0), exit()]);
    program
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> BpfInstruction {
    BpfInstruction { code, registers: from << 4 | to, offset, immediate }
}

/// `to = *(u32 *)(r1 + offset)`
fn load(to: u8, offset: i16) -> BpfInstruction {
    instruction(0x61, to, 1, offset, 0)
}

/// `to = from`
fn copy(to: u8, from: u8) -> BpfInstruction {
    instruction(0xbf, to, from, 0, 0)
}

/// `to = value`
fn set(to: u8, value: i32) -> BpfInstruction {
    instruction(0xb7, to, 0, 0, value)
}

/// `to &= mask`
fn and(to: u8, mask: i32) -> BpfInstruction {
    instruction(0x57, to, 0, 0, mask)
}

/// Skips instructions if the register has the value.
fn if_equal(register: u8, value: i32, skip: i16) -> BpfInstruction {
    instruction(0x15, register, 0, skip, value)
}

/// Skips instructions unless the register has the value.
fn if_not_equal(register: u8, value: i32, skip: i16) -> BpfInstruction {
    instruction(0x55, register, 0, skip, value)
}

fn exit() -> BpfInstruction {
    instruction(0x95, 0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn run(kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let program = program();
        let mut registers = [0u64; 10];
        let mut at = 0;
        loop {
            let BpfInstruction { code, registers: pair, offset, immediate } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            match code {
                0x61 => registers[to] = u64::from(context[offset as usize / 4]),
                0xbf => registers[to] = registers[from],
                0xb7 => registers[to] = immediate as u64,
                0x57 => registers[to] &= immediate as u64,
                0x15 if registers[to] == immediate as u64 => at += offset as usize,
                0x55 if registers[to] != immediate as u64 => at += offset as usize,
                0x15 | 0x55 => {}
                0x95 => return registers[0] == 1,
                code => panic!("unexpected instruction {code:#x}"),
            }
        }
    }

    const BLOCK: u32 = 1;
    const CHARACTER: u32 = 2;
    const MAKE: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;

    #[test]
    fn listed_devices_may_be_used_and_nothing_else() {
        for (major, minor) in ALLOWED {
            assert!(run(CHARACTER, READ | WRITE, major, minor.unwrap_or(77)));
        }
        assert!(!run(CHARACTER, READ, 1, 1), "memory");
        assert!(!run(CHARACTER, READ, 10, 232), "kvm");
        assert!(!run(CHARACTER, READ, 10, 237), "loop-control");
        assert!(!run(BLOCK, READ, 1, 3));
        assert!(!run(BLOCK, READ, 7, 0), "a loop device");
        assert!(!run(CHARACTER, MAKE, 1, 3));
        assert!(!run(CHARACTER, MAKE | READ, 1, 3));
    }
}
