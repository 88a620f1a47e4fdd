//! Whether a program needs the C library of the system it runs on.

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linkage {
    /// Runs on any Linux of its architecture.
    Static,
    /// Needs a loader and libraries at least as new as those it was linked with.
    Dynamic,
    /// No 64-bit little-endian ELF program.
    Unknown,
}

/// Bytes of an ELF header, and of one program header. Source: elf(5), `Elf64_Ehdr`, `Elf64_Phdr`.
const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
const PT_INTERP: u32 = 3;

/// Reads how a program is linked from the first bytes of its file. The program headers follow
/// the ELF header, so a few KiB are enough.
pub(crate) fn linkage(start: &[u8]) -> Linkage {
    let is_elf = start.len() >= HEADER_LEN && start.starts_with(b"\x7fELF\x02\x01");
    if !is_elf {
        return Linkage::Unknown;
    }
    let offset = number(start, 32, 8);
    let (size, count) = (number(start, 54, 2), number(start, 56, 2));
    let (Ok(offset), Ok(size)) = (usize::try_from(offset), usize::try_from(size)) else {
        return Linkage::Unknown;
    };
    if size < PROGRAM_HEADER_LEN || count == 0 {
        return Linkage::Unknown;
    }
    let mut at = offset;
    for _ in 0..count {
        let Some(header) = at.checked_add(size).and_then(|end| start.get(at..end)) else {
            return Linkage::Unknown;
        };
        if number(header, 0, 4) == u64::from(PT_INTERP) {
            return Linkage::Dynamic;
        }
        at += size;
    }
    Linkage::Static
}

/// Reads a little-endian number of `len` bytes, which must be there.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(kinds: &[u32]) -> Vec<u8> {
        let mut file = vec![0; HEADER_LEN];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = u8::try_from(kinds.len()).unwrap();
        for kind in kinds {
            file.extend(kind.to_le_bytes());
            file.resize(file.len() + 52, 0);
        }
        file
    }

    #[test]
    fn a_program_with_an_interpreter_is_dynamic() {
        assert_eq!(linkage(&program(&[6, PT_INTERP, 1])), Linkage::Dynamic);
        assert_eq!(linkage(&program(&[6, 1])), Linkage::Static);
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(linkage(&own[..4096]), Linkage::Dynamic);
    }

    #[test]
    fn a_broken_file_is_unknown() {
        assert_eq!(linkage(b"#!/bin/sh\n"), Linkage::Unknown);
        assert_eq!(linkage(&program(&[6, 1])[..100]), Linkage::Unknown);
        let mut file = program(&[1]);
        file[32..40].fill(0xff);
        assert_eq!(linkage(&file), Linkage::Unknown);
        for len in 0..130 {
            linkage(&program(&[6, 1])[..len]);
        }
    }
}
