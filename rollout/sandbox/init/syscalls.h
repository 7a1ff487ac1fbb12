/* The table of seccomp.c: what happens to each system call. What is not here is UNKNOWN. */
ALLOWED(accept) ALLOWED(accept4) ALLOWED(adjtimex) ALLOWED(bind) ALLOWED(brk) ALLOWED(capget)
ALLOWED(capset) ALLOWED(chdir) ALLOWED(chroot) ALLOWED(clock_adjtime) ALLOWED(clock_getres)
ALLOWED(clock_gettime) ALLOWED(clock_nanosleep) ALLOWED(close) ALLOWED(close_range)
ALLOWED(connect) ALLOWED(copy_file_range) ALLOWED(dup) ALLOWED(dup3) ALLOWED(epoll_create1)
ALLOWED(epoll_ctl) ALLOWED(epoll_pwait) ALLOWED(eventfd2) ALLOWED(execve) ALLOWED(execveat)
ALLOWED(exit) ALLOWED(exit_group) ALLOWED(faccessat) ALLOWED(faccessat2) ALLOWED(fadvise64)
ALLOWED(fallocate) ALLOWED(fchdir) ALLOWED(fchmod) ALLOWED(fchmodat) ALLOWED(fchown)
ALLOWED(fchownat) ALLOWED(fcntl) ALLOWED(fdatasync) ALLOWED(fgetxattr) ALLOWED(flistxattr)
ALLOWED(flock) ALLOWED(fremovexattr) ALLOWED(fsetxattr) ALLOWED(fstat) ALLOWED(fstatfs)
ALLOWED(fsync) ALLOWED(ftruncate) ALLOWED(futex) ALLOWED(get_robust_list) ALLOWED(getcpu)
ALLOWED(getcwd) ALLOWED(getdents64) ALLOWED(getegid) ALLOWED(geteuid) ALLOWED(getgid)
ALLOWED(getgroups) ALLOWED(getitimer) ALLOWED(getpeername) ALLOWED(getpgid) ALLOWED(getpid)
ALLOWED(getppid) ALLOWED(getpriority) ALLOWED(getrandom) ALLOWED(getresgid) ALLOWED(getresuid)
ALLOWED(getrlimit) ALLOWED(getrusage) ALLOWED(getsid) ALLOWED(getsockname) ALLOWED(getsockopt)
ALLOWED(gettid) ALLOWED(gettimeofday) ALLOWED(getuid) ALLOWED(getxattr)
ALLOWED(inotify_add_watch) ALLOWED(inotify_init1) ALLOWED(inotify_rm_watch) ALLOWED(io_cancel)
ALLOWED(io_destroy) ALLOWED(io_getevents) ALLOWED(io_pgetevents) ALLOWED(io_setup)
ALLOWED(io_submit) ALLOWED(ioctl) ALLOWED(ioprio_get) ALLOWED(ioprio_set) ALLOWED(kcmp)
ALLOWED(kill) ALLOWED(lgetxattr) ALLOWED(linkat) ALLOWED(listen) ALLOWED(listxattr)
ALLOWED(llistxattr) ALLOWED(lremovexattr) ALLOWED(lseek) ALLOWED(lsetxattr)
ALLOWED(madvise) ALLOWED(membarrier) ALLOWED(memfd_create) ALLOWED(mincore) ALLOWED(mkdirat)
ALLOWED(mknodat) ALLOWED(mlock) ALLOWED(mlock2) ALLOWED(mlockall) ALLOWED(mmap)
ALLOWED(mprotect) ALLOWED(mq_getsetattr) ALLOWED(mq_notify) ALLOWED(mq_open)
ALLOWED(mq_timedreceive) ALLOWED(mq_timedsend) ALLOWED(mq_unlink) ALLOWED(mremap)
ALLOWED(msgctl) ALLOWED(msgget) ALLOWED(msgrcv) ALLOWED(msgsnd) ALLOWED(msync) ALLOWED(munlock)
ALLOWED(munlockall) ALLOWED(munmap) ALLOWED(name_to_handle_at) ALLOWED(nanosleep)
ALLOWED(newfstatat) ALLOWED(openat) ALLOWED(openat2) ALLOWED(pidfd_getfd) ALLOWED(pidfd_open)
ALLOWED(pidfd_send_signal) ALLOWED(pipe2) ALLOWED(pkey_alloc) ALLOWED(pkey_free)
ALLOWED(pkey_mprotect) ALLOWED(ppoll) ALLOWED(prctl) ALLOWED(pread64) ALLOWED(preadv)
ALLOWED(preadv2) ALLOWED(prlimit64) ALLOWED(process_vm_readv) ALLOWED(process_vm_writev)
ALLOWED(pselect6) ALLOWED(ptrace) ALLOWED(pwrite64) ALLOWED(pwritev) ALLOWED(pwritev2)
ALLOWED(read) ALLOWED(readahead) ALLOWED(readlinkat) ALLOWED(readv) ALLOWED(recvfrom)
ALLOWED(recvmmsg) ALLOWED(recvmsg) ALLOWED(remap_file_pages) ALLOWED(removexattr)
ALLOWED(renameat) ALLOWED(renameat2) ALLOWED(restart_syscall) ALLOWED(rseq)
ALLOWED(rt_sigaction) ALLOWED(rt_sigpending) ALLOWED(rt_sigprocmask) ALLOWED(rt_sigqueueinfo)
ALLOWED(rt_sigreturn) ALLOWED(rt_sigsuspend) ALLOWED(rt_sigtimedwait) ALLOWED(rt_tgsigqueueinfo)
ALLOWED(sched_get_priority_max) ALLOWED(sched_get_priority_min) ALLOWED(sched_getaffinity)
ALLOWED(sched_getattr) ALLOWED(sched_getparam) ALLOWED(sched_getscheduler)
ALLOWED(sched_rr_get_interval) ALLOWED(sched_setaffinity) ALLOWED(sched_setattr)
ALLOWED(sched_setparam) ALLOWED(sched_setscheduler) ALLOWED(sched_yield) ALLOWED(seccomp)
ALLOWED(semctl) ALLOWED(semget) ALLOWED(semop) ALLOWED(semtimedop) ALLOWED(sendfile)
ALLOWED(sendmmsg) ALLOWED(sendmsg) ALLOWED(sendto) ALLOWED(set_robust_list)
ALLOWED(set_tid_address) ALLOWED(setfsgid) ALLOWED(setfsuid) ALLOWED(setgid) ALLOWED(setgroups)
ALLOWED(setitimer) ALLOWED(setpgid) ALLOWED(setpriority) ALLOWED(setregid) ALLOWED(setresgid)
ALLOWED(setresuid) ALLOWED(setreuid) ALLOWED(setrlimit) ALLOWED(setsid) ALLOWED(setsockopt)
ALLOWED(setuid) ALLOWED(setxattr) ALLOWED(shmat) ALLOWED(shmctl) ALLOWED(shmdt) ALLOWED(shmget)
ALLOWED(shutdown) ALLOWED(sigaltstack) ALLOWED(signalfd4) ALLOWED(socketpair) ALLOWED(splice)
 ALLOWED(statfs) ALLOWED(statx) ALLOWED(symlinkat) ALLOWED(sync)
ALLOWED(sync_file_range) ALLOWED(syncfs) ALLOWED(sysinfo) ALLOWED(tee) ALLOWED(tgkill)
ALLOWED(timer_create) ALLOWED(timer_delete) ALLOWED(timer_getoverrun) ALLOWED(timer_gettime)
ALLOWED(timer_settime) ALLOWED(timerfd_create) ALLOWED(timerfd_gettime) ALLOWED(timerfd_settime)
ALLOWED(times) ALLOWED(tkill) ALLOWED(truncate) ALLOWED(umask) ALLOWED(uname) ALLOWED(unlinkat)
ALLOWED(utimensat) ALLOWED(vmsplice) ALLOWED(wait4) ALLOWED(waitid) ALLOWED(write)
ALLOWED(writev)

/* The host's business, or more kernel than a sandbox needs. */
DENIED(acct) DENIED(add_key) DENIED(bpf) DENIED(clock_settime) DENIED(delete_module)
DENIED(fanotify_init) DENIED(fanotify_mark) DENIED(finit_module) DENIED(fsconfig)
DENIED(fsmount) DENIED(fsopen) DENIED(fspick) DENIED(get_mempolicy) DENIED(init_module)
DENIED(io_uring_enter) DENIED(io_uring_register) DENIED(io_uring_setup) DENIED(kexec_file_load)
DENIED(kexec_load) DENIED(keyctl) DENIED(lookup_dcookie) DENIED(mbind) DENIED(migrate_pages)
DENIED(mount) DENIED(move_mount) DENIED(move_pages) DENIED(nfsservctl) DENIED(open_by_handle_at)
DENIED(open_tree) DENIED(perf_event_open) DENIED(pivot_root) DENIED(quotactl) DENIED(reboot)
DENIED(request_key) DENIED(set_mempolicy) DENIED(setdomainname) DENIED(sethostname)
DENIED(setns) DENIED(settimeofday) DENIED(swapoff) DENIED(swapon) DENIED(syslog) DENIED(umount2)
DENIED(userfaultfd) DENIED(vhangup)

/* Decided by what they are asked for. */
[SYS_clone] = CLONE, [SYS_unshare] = UNSHARE, [SYS_socket] = SOCKET,
[SYS_personality] = PERSONALITY,

#ifdef __x86_64__
ALLOWED(lstat) ALLOWED(stat)
ALLOWED(access) ALLOWED(alarm) ALLOWED(arch_prctl) ALLOWED(chmod) ALLOWED(chown) ALLOWED(creat)
ALLOWED(dup2) ALLOWED(epoll_create) ALLOWED(epoll_wait) ALLOWED(eventfd) ALLOWED(fork)
ALLOWED(futimesat) ALLOWED(get_thread_area) ALLOWED(getdents) ALLOWED(getpgrp)
ALLOWED(inotify_init) ALLOWED(lchown) ALLOWED(link) ALLOWED(mkdir) ALLOWED(mknod)
ALLOWED(modify_ldt) ALLOWED(open) ALLOWED(pause) ALLOWED(pipe) ALLOWED(poll) ALLOWED(readlink)
ALLOWED(rename) ALLOWED(rmdir) ALLOWED(select) ALLOWED(set_thread_area) ALLOWED(signalfd)
ALLOWED(symlink) ALLOWED(time) ALLOWED(unlink) ALLOWED(utime) ALLOWED(utimes) ALLOWED(vfork)
DENIED(_sysctl) DENIED(ioperm) DENIED(iopl) DENIED(sysfs) DENIED(uselib) DENIED(ustat)
#endif

/* By number, the same everywhere: some systems' headers are older than these. */
[440] = ALLOW, /* process_madvise */
[441] = ALLOW, /* epoll_pwait2 */
[442] = DENY, /* mount_setattr */
[443] = DENY, /* quotactl_fd */
[444] = ALLOW, /* landlock_create_ruleset */
[445] = ALLOW, /* landlock_add_rule */
[446] = ALLOW, /* landlock_restrict_self */
[447] = ALLOW, /* memfd_secret */
[448] = ALLOW, /* process_mrelease */
[449] = ALLOW, /* futex_waitv */
[450] = DENY, /* set_mempolicy_home_node */
[451] = ALLOW, /* cachestat */
[452] = ALLOW, /* fchmodat2 */
[454] = ALLOW, /* futex_wake */
[455] = ALLOW, /* futex_wait */
[456] = ALLOW, /* futex_requeue */
[462] = ALLOW, /* mseal */
[463] = ALLOW, /* setxattrat */
[464] = ALLOW, /* getxattrat */
[465] = ALLOW, /* listxattrat */
[466] = ALLOW, /* removexattrat */
