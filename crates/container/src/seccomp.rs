//! The container's system call filter, as a classic BPF program.
//!
//! Everything is allowed except what is listed: programs that users bring must just work, and
//! the filter only takes away kernel surface that no sprite needs. It is inherited by nested
//! user namespaces, where a process has every capability again.
//!
//! The preamble makes a deny list safe: foreign architectures, the x32 numbers and numbers
//! newer than this list answer `ENOSYS`.

use libc::c_long;

use crate::sys::Instruction;

/// First system call number that did not exist when the list was reviewed.
const FIRST_UNKNOWN: u32 = 470;

/// Offsets in the kernel's `struct seccomp_data`. Arguments are 64-bit; these are their low
/// halves, which is also all the kernel looks at for the arguments tested here.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_0: u32 = 16;
const ARGUMENT_1: u32 = 24;
const ARGUMENT_2: u32 = 32;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Calls that pretend not to exist, so that programs fall back to something else.
const MISSING: &[c_long] = &[
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
];

/// Calls that are refused: they reach the whole host, or have a bad record.
const REFUSED: &[c_long] = &[
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_open_by_handle_at,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_vhangup,
    libc::SYS_fanotify_init,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_set_mempolicy,
    libc::SYS_mbind,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];

/// Terminal requests that type into, or reconfigure, somebody else's terminal.
const REFUSED_IOCTLS: &[u32] = &[libc::TIOCSTI as u32, libc::TIOCLINUX as u32];

/// Socket families besides netlink.
const FAMILIES: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_PACKET];

/// Netlink protocols. Netfilter comes on request.
const NETLINK: &[i32] = &[
    libc::NETLINK_ROUTE,
    libc::NETLINK_SOCK_DIAG,
    libc::NETLINK_KOBJECT_UEVENT,
    libc::NETLINK_GENERIC,
];

/// Builds the filter.
pub(crate) fn filter(allow_netfilter: bool) -> Vec<Instruction> {
    let mut program = vec![
        load(ARCHITECTURE),
        if_equal(AUDIT_ARCH, 1, 0),
        fail(libc::ENOSYS),
        load(NUMBER),
        // Also catches the x32 numbers, which have bit 30 set.
        if_at_least(FIRST_UNKNOWN, 0, 1),
        fail(libc::ENOSYS),
    ];
    for &number in MISSING {
        program.extend([if_equal(number as u32, 0, 1), fail(libc::ENOSYS)]);
    }
    for &number in REFUSED {
        program.extend([if_equal(number as u32, 0, 1), fail(libc::EPERM)]);
    }
    for_call(&mut program, libc::SYS_ioctl, ioctl_rules());
    let sockets = socket_rules(allow_netfilter);
    for_call(&mut program, libc::SYS_socket, sockets.clone());
    for_call(&mut program, libc::SYS_socketpair, sockets);
    if !allow_netfilter {
        for_call(&mut program, libc::SYS_setsockopt, xtables_rules());
        for_call(&mut program, libc::SYS_getsockopt, xtables_rules());
    }
    program.push(allow());
    program
}

/// Appends rules that apply to one call. They must end in a verdict, since they have loaded
/// something else over the number.
fn for_call(program: &mut Vec<Instruction>, number: c_long, rules: Vec<Instruction>) {
    let skip = u8::try_from(rules.len()).expect("the lists above are short");
    program.push(if_equal(number as u32, 0, skip));
    program.extend(rules);
}

fn ioctl_rules() -> Vec<Instruction> {
    let mut rules = vec![load(ARGUMENT_1)];
    for &request in REFUSED_IOCTLS {
        rules.extend([if_equal(request, 0, 1), fail(libc::EPERM)]);
    }
    rules.push(allow());
    rules
}

fn socket_rules(allow_netfilter: bool) -> Vec<Instruction> {
    let mut rules = vec![load(ARGUMENT_0)];
    for &family in FAMILIES {
        rules.extend([if_equal(family as u32, 0, 1), allow()]);
    }
    rules.extend([if_equal(libc::AF_NETLINK as u32, 1, 0), fail(libc::EAFNOSUPPORT)]);
    rules.push(load(ARGUMENT_2));
    let netfilter = allow_netfilter.then_some(libc::NETLINK_NETFILTER);
    for protocol in NETLINK.iter().copied().chain(netfilter) {
        rules.extend([if_equal(protocol as u32, 0, 1), allow()]);
    }
    rules.push(fail(libc::EPROTONOSUPPORT));
    rules
}

/// The old interface of iptables, arptables and ebtables: socket options whose numbers are
/// `IPT_BASE_CTL` (64), `ARPT_BASE_CTL` (96) and `EBT_BASE_CTL` (128) and the next one. Higher
/// ones only ask for revisions, or mean something else for IPv6.
fn xtables_rules() -> Vec<Instruction> {
    const OPTIONS: [u32; 6] = [64, 65, 96, 97, 128, 129];
    let mut rules = vec![
        load(ARGUMENT_1),
        if_equal(libc::SOL_IP as u32, 2, 0),
        if_equal(libc::SOL_IPV6 as u32, 1, 0),
        allow(),
        load(ARGUMENT_2),
    ];
    for option in OPTIONS {
        rules.extend([if_equal(option, 0, 1), fail(libc::EPERM)]);
    }
    rules.push(allow());
    rules
}

fn instruction(code: u32, jump_true: u8, jump_false: u8, value: u32) -> Instruction {
    Instruction { code: code as u16, jump_true, jump_false, value }
}

fn load(offset: u32) -> Instruction {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

/// Skips `yes` instructions if the loaded value equals, else `no`.
fn if_equal(value: u32, yes: u8, no: u8) -> Instruction {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value)
}

fn if_at_least(value: u32, yes: u8, no: u8) -> Instruction {
    instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, yes, no, value)
}

fn fail(errno: i32) -> Instruction {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32)
}

fn allow() -> Instruction {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel would.
    fn run(program: &[Instruction], arch: u32, number: u32, arguments: [u64; 3]) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            data[16 + index * 8..24 + index * 8].copy_from_slice(&argument.to_ne_bytes());
        }
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) {
                0x20 => {
                    let from = step.value as usize;
                    loaded = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                }
                0x15 if loaded == step.value => at += usize::from(step.jump_true),
                0x35 if loaded >= step.value => at += usize::from(step.jump_true),
                0x15 | 0x35 => at += usize::from(step.jump_false),
                0x06 => return step.value,
                code => panic!("unexpected instruction {code:#x}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn verdict(number: c_long, arguments: [u64; 3]) -> u32 {
        run(&filter(false), AUDIT_ARCH, number as u32, arguments)
    }

    fn errno(code: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | code as u32
    }

    #[test]
    fn foreign_architectures_x32_and_future_calls_do_not_exist() {
        let program = filter(false);
        for arch in [0x4000_0003, 0x4000_0028] {
            assert_eq!(run(&program, arch, libc::SYS_read as u32, [0; 3]), errno(libc::ENOSYS));
        }
        for number in [0x4000_0000 | libc::SYS_bpf as u32, FIRST_UNKNOWN, u32::MAX] {
            assert_eq!(run(&program, AUDIT_ARCH, number, [0; 3]), errno(libc::ENOSYS));
        }
    }

    #[test]
    fn listed_calls_are_refused_and_common_ones_are_not() {
        for &number in MISSING {
            assert_eq!(verdict(number, [0; 3]), errno(libc::ENOSYS));
        }
        for &number in REFUSED {
            assert_eq!(verdict(number, [0; 3]), errno(libc::EPERM));
        }
        for number in [libc::SYS_read, libc::SYS_mount, libc::SYS_clone3, libc::SYS_setns] {
            assert_eq!(verdict(number, [0; 3]), ALLOW);
        }
    }

    #[test]
    fn terminal_injection_is_refused_whatever_the_high_bits_say() {
        for high in [0, 0xdead_beef_0000_0000] {
            for request in [libc::TIOCSTI, libc::TIOCLINUX] {
                let arguments = [0, high | u64::from(request as u32), 0];
                assert_eq!(verdict(libc::SYS_ioctl, arguments), errno(libc::EPERM));
            }
        }
        assert_eq!(verdict(libc::SYS_ioctl, [0, 0x5413, 0]), ALLOW);
    }

    #[test]
    fn only_known_socket_families_and_netlink_protocols_exist() {
        let socket = |family: i32, protocol: i32| [family as u64, 1, protocol as u64];
        for family in FAMILIES {
            assert_eq!(verdict(libc::SYS_socket, socket(*family, 0)), ALLOW);
        }
        for family in [libc::AF_VSOCK, libc::AF_ALG, libc::AF_KEY, libc::AF_XDP, libc::AF_RDS] {
            assert_eq!(verdict(libc::SYS_socket, socket(family, 0)), errno(libc::EAFNOSUPPORT));
            assert_eq!(verdict(libc::SYS_socketpair, socket(family, 0)), errno(97));
        }
        assert_eq!(verdict(libc::SYS_socket, socket(libc::AF_NETLINK, 0)), ALLOW);
        for protocol in [libc::NETLINK_AUDIT, libc::NETLINK_NETFILTER] {
            let arguments = socket(libc::AF_NETLINK, protocol);
            assert_eq!(verdict(libc::SYS_socket, arguments), errno(libc::EPROTONOSUPPORT));
        }
    }

    #[test]
    fn netfilter_comes_only_on_request() {
        let netlink = [libc::AF_NETLINK as u64, 3, libc::NETLINK_NETFILTER as u64];
        let replace = [3, libc::SOL_IP as u64, 64];
        let open = filter(true);
        assert_eq!(run(&open, AUDIT_ARCH, libc::SYS_socket as u32, netlink), ALLOW);
        assert_eq!(run(&open, AUDIT_ARCH, libc::SYS_setsockopt as u32, replace), ALLOW);
        assert_eq!(verdict(libc::SYS_setsockopt, replace), errno(libc::EPERM));
        assert_eq!(verdict(libc::SYS_setsockopt, [3, libc::SOL_IPV6 as u64, 64]), errno(1));
        // IPV6_RECVTCLASS, which ping and DNS servers use.
        assert_eq!(verdict(libc::SYS_setsockopt, [3, libc::SOL_IPV6 as u64, 66]), ALLOW);
        assert_eq!(verdict(libc::SYS_setsockopt, [3, libc::SOL_SOCKET as u64, 64]), ALLOW);
    }
}
