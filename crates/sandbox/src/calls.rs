//! Seccomp: the system calls that are refused.
//!
//! Two programs, both asked at each call. The first is [`REFUSED`] and [`conditional`], answered with EPERM. The second
//! answers ENOSYS, as an older kernel would: to `clone3`, whose flags lie in memory that a filter cannot see, so that the C
//! library falls back to `clone`, whose flags it can; and to numbers of the x32 interface, another way to every call.
//!
//! What it costs: the kernel remembers which calls are permitted whatever their arguments are (Linux 5.11), and
//! `io_uring_enter` is one of them. Only calls that are looked into (`mmap`, `socket`, …) run the programs.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads, sock_filter,
};

/// Refuses them in every thread of this process, for good.
///
/// # Errors
/// Why nothing is refused: one sentence.
pub fn refuse_calls() -> Result<(), String> {
    let told = |error: seccompiler::Error| match error {
        seccompiler::Error::Seccomp(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            "this kernel has no filters for system calls".to_owned()
        }
        error => error.to_string(),
    };
    apply_filter_all_threads(&refused()?).map_err(told)?;
    apply_filter_all_threads(&unknown()).map_err(told)
}

/// What a broker never does.
const REFUSED: &[i64] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    // Another user, or more rights.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_personality,
    // Other views of the system.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    // Files by other ways than their names.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_mknodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    // The kernel, and what has been a way into it.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_syslog,
    libc::SYS_lookup_dcookie,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    // The machine.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_vhangup,
];

/// What it does, but not like this: any one of the conditions of a call refuses it.
fn conditional() -> [(i64, Vec<Vec<Condition>>); 7] {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let executable = || (2, MaskedEq(bits(libc::PROT_EXEC)), bits(libc::PROT_EXEC));
    let both = bits(libc::PROT_WRITE | libc::PROT_EXEC);
    let thread = bits(libc::CLONE_THREAD);
    let family = |family: i32| (0, Ne, bits(family));
    [
        // A process, where only threads are made.
        (libc::SYS_clone, vec![vec![(0, MaskedEq(thread), 0)]]),
        // Memory that is written and then run.
        (libc::SYS_mmap, vec![vec![(2, MaskedEq(both), both)]]),
        (libc::SYS_mprotect, vec![vec![executable()]]),
        (libc::SYS_pkey_mprotect, vec![vec![executable()]]),
        (libc::SYS_shmat, vec![vec![(2, MaskedEq(SHM_EXEC), SHM_EXEC)]]),
        // Sockets that reach no client: of the network card, of the kernel.
        (
            libc::SYS_socket,
            vec![vec![family(libc::AF_UNIX), family(libc::AF_INET), family(libc::AF_INET6)]],
        ),
        // Words put into the mouth of whoever sits at the terminal.
        (libc::SYS_ioctl, vec![vec![(1, Eq, libc::TIOCSTI)]]),
    ]
}

/// The number of an argument, how it is compared, and with what; only 32 bits of it count.
type Condition = (u8, SeccompCmpOp, u64);

/// `<linux/shm.h>`.
const SHM_EXEC: u64 = 0o100_000;

fn bits(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

/// What is answered with EPERM.
fn refused() -> Result<BpfProgram, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let told = |error: seccompiler::BackendError| error.to_string();
    for (call, alternatives) in conditional() {
        for conditions in alternatives {
            let conditions: Result<Vec<_>, _> = conditions
                .into_iter()
                .map(|(argument, compare, value)| {
                    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)
                })
                .collect();
            let rule = conditions.and_then(SeccompRule::new).map_err(told)?;
            rules.entry(call).or_default().push(rule);
        }
    }
    let architecture = std::env::consts::ARCH.try_into().map_err(told)?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)
        .and_then(BpfProgram::try_from)
        .map_err(told)
}

/// Where the numbers of x86-64's second interface begin (`__X32_SYSCALL_BIT`); no other machine has numbers so large.
const X32: u32 = 0x4000_0000;

/// What is answered with ENOSYS. The first program has looked at the machine's interface already.
fn unknown() -> BpfProgram {
    const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let line = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    vec![
        // The number of the call stands first.
        line(LOAD_WORD, 0, 0, 0),
        line(IF_EQUAL, 2, 0, libc::SYS_clone3 as u32),
        line(IF_AT_LEAST, 1, 0, X32),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERMITTED: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

    /// What the kernel would answer: the programs are run as it runs them, and the stricter answer counts.
    fn answer(call: i64, arguments: [u64; 6]) -> u32 {
        let programs = [refused().expect("a sound filter"), unknown()];
        programs.iter().map(|program| run(program, call, arguments)).min().expect("two")
    }

    fn run(program: &[sock_filter], call: i64, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend((call as u32).to_ne_bytes());
        let architecture: u32 = match std::env::consts::ARCH {
            "x86_64" => 0xC000_003E,
            "aarch64" => 0xC000_00B7,
            "riscv64" => 0xC000_00F3,
            other => panic!("{other}"),
        };
        data.extend(architecture.to_ne_bytes());
        data.extend([0; 8]);
        arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
        let (mut at, mut register) = (0, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let jump = |condition| usize::from(if condition { jt } else { jf });
            at += 1;
            match code {
                0x20 => {
                    let word = data[k as usize..k as usize + 4].try_into().expect("four");
                    register = u32::from_ne_bytes(word);
                }
                0x54 => register &= k,
                0x05 => at += k as usize,
                0x15 => at += jump(register == k),
                0x25 => at += jump(register > k),
                0x35 => at += jump(register >= k),
                0x06 => return k,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn what_a_broker_does_is_permitted() {
        for call in [
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_register,
            libc::SYS_read,
            libc::SYS_writev,
            libc::SYS_openat,
            libc::SYS_fdatasync,
            libc::SYS_fallocate,
            libc::SYS_renameat2,
            libc::SYS_unlinkat,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_accept4,
            libc::SYS_setsockopt,
            libc::SYS_futex,
            libc::SYS_membarrier,
            libc::SYS_sched_setaffinity,
            libc::SYS_prlimit64,
            libc::SYS_getrandom,
            libc::SYS_rt_sigprocmask,
            // It aborts with one, to itself.
            libc::SYS_tgkill,
            libc::SYS_exit_group,
        ] {
            assert_eq!(answer(call, [0; 6]), PERMITTED, "{call}");
        }
    }

    #[test]
    fn what_it_never_does_is_refused() {
        for call in REFUSED {
            for arguments in [[0; 6], [u64::MAX; 6]] {
                assert_eq!(answer(*call, arguments), EPERM, "{call}");
            }
        }
    }

    #[test]
    fn arguments_decide() {
        let (read, write, run) =
            (bits(libc::PROT_READ), bits(libc::PROT_WRITE), bits(libc::PROT_EXEC));
        let first = |value| [value, 0, 0, 0, 0, 0];
        let second = |value| [0, value, 0, 0, 0, 0];
        let third = |value| [0, 0, value, 0, 0, 0];
        // As the C library makes a thread.
        let thread = 0x003D_0F00;
        for (call, arguments, expected) in [
            (libc::SYS_clone, first(thread), PERMITTED),
            (libc::SYS_clone, first(bits(libc::SIGCHLD)), EPERM),
            (libc::SYS_clone, first(bits(libc::CLONE_NEWUSER)), EPERM),
            (libc::SYS_clone3, [0; 6], ENOSYS),
            (libc::SYS_mmap, third(read | write), PERMITTED),
            // A library is mapped.
            (libc::SYS_mmap, third(read | run), PERMITTED),
            (libc::SYS_mmap, third(read | write | run), EPERM),
            (libc::SYS_mprotect, third(read | write), PERMITTED),
            (libc::SYS_mprotect, third(read | run), EPERM),
            (libc::SYS_pkey_mprotect, third(run), EPERM),
            (libc::SYS_shmat, third(SHM_EXEC), EPERM),
            (libc::SYS_shmat, third(0), PERMITTED),
            (libc::SYS_socket, first(bits(libc::AF_INET)), PERMITTED),
            (libc::SYS_socket, first(bits(libc::AF_INET6)), PERMITTED),
            (libc::SYS_socket, first(bits(libc::AF_UNIX)), PERMITTED),
            (libc::SYS_socket, first(bits(libc::AF_PACKET)), EPERM),
            (libc::SYS_socket, first(bits(libc::AF_NETLINK)), EPERM),
            (libc::SYS_socket, first(bits(libc::AF_VSOCK)), EPERM),
            (libc::SYS_ioctl, second(libc::FIONBIO), PERMITTED),
            (libc::SYS_ioctl, second(libc::TIOCSTI), EPERM),
            // The kernel looks at 32 bits, and so does the filter.
            (libc::SYS_ioctl, second(libc::TIOCSTI | 1 << 40), EPERM),
            (i64::from(X32), [0; 6], ENOSYS),
            // execve of x32.
            (i64::from(X32) + 520, [0; 6], ENOSYS),
        ] {
            assert_eq!(answer(call, arguments), expected, "{call} {arguments:x?}");
        }
    }
}
