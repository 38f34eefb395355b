/* What the kernel keeps for the C library and the processor: rseq, robust lists, registers. */
#include "tasks.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/rseq.h>

static struct rseq *own_rseq(void) {
    CHECK(__rseq_size != 0);
    return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* Registered means that the kernel tells where the thread runs. */
static void runs_where_rseq_says(void) {
    struct rseq *rseq = own_rseq();
    for (int processor = 0; processor < 2; processor++) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(processor, &set);
        TRY(sched_setaffinity(0, sizeof(set), &set));
        CHECK((int)__atomic_load_n(&rseq->cpu_id, __ATOMIC_RELAXED) == processor);
    }
    /* Taken already, with these very words. */
    CHECK(syscall(SYS_rseq, rseq, 32, 0, RSEQ_SIG) == -1 && errno == EBUSY);
}

static void *has_rseq(void *unused) {
    (void)unused;
    thread_is_set();
    wait_to_go();
    runs_where_rseq_says();
    return NULL;
}

SCENARIO(rseq_of_threads) {
    if (sysconf(_SC_NPROCESSORS_ONLN) < 2) skip("one processor");
    pthread_t thread = start_thread(has_rseq, NULL);
    be_dumped();
    runs_where_rseq_says();
    join(thread);
}

static void *without_rseq(void *unused) {
    (void)unused;
    TRY(syscall(SYS_rseq, own_rseq(), 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG));
    thread_is_set();
    wait_to_go();
    CHECK(syscall(SYS_rseq, own_rseq(), 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == -1 && errno == EINVAL);
    TRY(syscall(SYS_rseq, own_rseq(), 32, 0, RSEQ_SIG));
    return NULL;
}

SCENARIO(rseq_taken_back) {
    pthread_t thread = start_thread(without_rseq, NULL);
    be_dumped();
    join(thread);
}

static volatile long entered, aborted;

/* Spins inside a restartable sequence, which can only be left by being interrupted: a dump finds
 * it there, and restore has to lead to the abort handler. */
static void *spins_inside(void *unused) {
    (void)unused;
    struct rseq *rseq = own_rseq();
    thread_is_set();
    while (!told_to_go()) {
        entered++;
        asm goto(
            ".pushsection __rseq_cs, \"aw\"\n"
            ".balign 32\n"
            "3: .long 0, 0\n"
            ".quad 1f, 2f - 1f, 4f\n"
            ".popsection\n"
            "leaq 3b(%%rip), %%rax\n"
            "movq %%rax, %[cs]\n"
            "1: pause\n"
            "jmp 1b\n"
            "nop\n"
            "2:\n"
            ".pushsection __rseq_abort, \"ax\"\n"
            ".byte 0x0f, 0xb9, 0x3d\n"
            ".long %c[sig]\n"
            "4: jmp %l[abort]\n"
            ".popsection\n"
            :
            : [cs] "m"(rseq->rseq_cs), [sig] "i"(RSEQ_SIG)
            : "rax", "memory", "cc"
            : abort);
    abort:
        aborted++;
        CHECK(aborted == entered);
    }
    return NULL;
}

static void push(int signal) { (void)signal; }

SCENARIO(inside_a_restartable_sequence) {
    signal(SIGUSR1, push);
    pthread_t thread = start_thread(spins_inside, NULL);
    be_dumped();
    /* Whoever spins needs a push to see that it may go. */
    while (pthread_tryjoin_np(thread, NULL) == EBUSY) {
        pthread_kill(thread, SIGUSR1);
        usleep(1000);
    }
    CHECK(aborted > 0 && aborted == entered);
}

static pthread_mutex_t *robust_mutex(bool shared) {
    pthread_mutex_t *mutex = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(mutex != MAP_FAILED);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    CHECK(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
    if (shared) CHECK(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0);
    CHECK(pthread_mutex_init(mutex, &attributes) == 0);
    return mutex;
}

static pthread_mutex_t *robust;

static void *ends_with_the_lock(void *unused) {
    (void)unused;
    CHECK(pthread_mutex_lock(robust) == 0);
    thread_is_set();
    wait_to_go();
    return NULL;
}

SCENARIO(robust_lock_of_a_thread) {
    robust = robust_mutex(false);
    pthread_t thread = start_thread(ends_with_the_lock, NULL);
    be_dumped();
    join(thread);
    CHECK(pthread_mutex_lock(robust) == EOWNERDEAD);
}

static void child_ends_with_the_lock(void) {
    CHECK(pthread_mutex_lock(robust) == 0);
    child_is_set();
    wait_to_go();
    _exit(0);
}

SCENARIO(robust_lock_between_processes) {
    robust = robust_mutex(true);
    pid_t pid = start_child(child_ends_with_the_lock);
    be_dumped();
    reap_child(pid);
    CHECK(pthread_mutex_lock(robust) == EOWNERDEAD);
}

SCENARIO(no_robust_list) {
    TRY(syscall(SYS_set_robust_list, NULL, sizeof(struct robust_list_head)));
    be_dumped();
    void *head;
    size_t length;
    TRY(syscall(SYS_get_robust_list, 0, &head, &length));
    CHECK(head == NULL);
}

static int cleared = 77;

static int ends_and_clears(void *unused) {
    (void)unused;
    wait_to_go();
    syscall(SYS_exit, 0);
    return 0;
}

SCENARIO(word_that_is_cleared_at_the_end) {
    static char stack[65536];
    cleared = TRY(clone(ends_and_clears, stack + sizeof(stack) - 64,
                        CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                            CLONE_CHILD_CLEARTID,
                        NULL, NULL, NULL, &cleared));
    int tid = cleared;
    CHECK(tid > 0);
    be_dumped();
    while (__atomic_load_n(&cleared, __ATOMIC_SEQ_CST)) {
        struct timespec limit = {0, 10000000};
        syscall(SYS_futex, &cleared, FUTEX_WAIT, tid, &limit);
    }
}

SCENARIO(address_to_clear_of_the_leader) {
    static int word;
    TRY(syscall(SYS_set_tid_address, &word));
    be_dumped();
    int *now = NULL;
    TRY(prctl(PR_GET_TID_ADDRESS, &now));
    CHECK(now == &word);
}

static long own[8];

static void *has_a_gs_base(void *number) {
    TRY(syscall(SYS_arch_prctl, ARCH_SET_GS, &own[(long)number]));
    own[(long)number] = (long)number * 1111;
    thread_is_set();
    wait_to_go();
    long found;
    asm volatile("movq %%gs:0, %0" : "=r"(found));
    CHECK(found == (long)number * 1111);
    unsigned long base;
    TRY(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
    CHECK(base == (unsigned long)&own[(long)number]);
    return NULL;
}

SCENARIO(segment_bases_of_threads) {
    pthread_t first = start_thread(has_a_gs_base, (void *)1);
    pthread_t second = start_thread(has_a_gs_base, (void *)2);
    be_dumped();
    join(first);
    join(second);
}

SCENARIO(rounding_of_both_units) {
    /* Both round down, and neither masks invalid operations. */
    unsigned short control = 0x77e, control_now;
    unsigned mxcsr = 0x3f00, mxcsr_now;
    asm volatile("fldcw %0\n ldmxcsr %1" : : "m"(control), "m"(mxcsr));
    be_dumped();
    asm volatile("fnstcw %0\n stmxcsr %1" : "=m"(control_now), "=m"(mxcsr_now));
    CHECK((control_now & 0xf3f) == (control & 0xf3f) && (mxcsr_now & 0x7f80) == (mxcsr & 0x7f80));
}

/* Numbers stay on the x87 stack while the thread spins. */
static void *keeps_numbers(void *unused) {
    (void)unused;
    thread_is_set();
    static volatile int go;
    long double sum;
    asm volatile("fld1\n fldpi\n fldl2e\n fldlg2");
    while (!go) go = told_to_go();
    asm volatile("faddp\n faddp\n faddp\n fstpt %0" : "=m"(sum));
    long double expected = 1.0L + 3.14159265358979323851L + 1.44269504088896340735L + 0.30102999566398119521L;
    CHECK(sum - expected < 1e-17L && expected - sum < 1e-17L);
    return NULL;
}

SCENARIO(numbers_on_the_x87_stack) {
    pthread_t thread = start_thread(keeps_numbers, NULL);
    be_dumped();
    join(thread);
}

static volatile unsigned char stop;

/* Fills the widest registers there are, spins, and compares: no call is made meanwhile. */
__attribute__((target("avx"))) static void keeps_ymm(unsigned char seed) {
    unsigned char in[16][32], out[16][32];
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 32; j++) in[i][j] = seed + 32 * i + j;
    asm volatile(
        "vmovdqu 0(%0), %%ymm0\n vmovdqu 32(%0), %%ymm1\n vmovdqu 64(%0), %%ymm2\n vmovdqu 96(%0), %%ymm3\n"
        "vmovdqu 128(%0), %%ymm4\n vmovdqu 160(%0), %%ymm5\n vmovdqu 192(%0), %%ymm6\n vmovdqu 224(%0), %%ymm7\n"
        "vmovdqu 256(%0), %%ymm8\n vmovdqu 288(%0), %%ymm9\n vmovdqu 320(%0), %%ymm10\n vmovdqu 352(%0), %%ymm11\n"
        "vmovdqu 384(%0), %%ymm12\n vmovdqu 416(%0), %%ymm13\n vmovdqu 448(%0), %%ymm14\n vmovdqu 480(%0), %%ymm15\n"
        "1: pause\n cmpb $0, %2\n je 1b\n"
        "vmovdqu %%ymm0, 0(%1)\n vmovdqu %%ymm1, 32(%1)\n vmovdqu %%ymm2, 64(%1)\n vmovdqu %%ymm3, 96(%1)\n"
        "vmovdqu %%ymm4, 128(%1)\n vmovdqu %%ymm5, 160(%1)\n vmovdqu %%ymm6, 192(%1)\n vmovdqu %%ymm7, 224(%1)\n"
        "vmovdqu %%ymm8, 256(%1)\n vmovdqu %%ymm9, 288(%1)\n vmovdqu %%ymm10, 320(%1)\n vmovdqu %%ymm11, 352(%1)\n"
        "vmovdqu %%ymm12, 384(%1)\n vmovdqu %%ymm13, 416(%1)\n vmovdqu %%ymm14, 448(%1)\n vmovdqu %%ymm15, 480(%1)\n"
        :
        : "r"(in), "r"(out), "m"(stop)
        : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
          "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    CHECK(!memcmp(in, out, sizeof(in)));
}

__attribute__((target("avx512f"))) static void keeps_zmm(unsigned char seed) {
    unsigned char in[4][64], out[4][64];
    unsigned short mask = 0xa5c3 + seed, mask_after;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 64; j++) in[i][j] = seed + 64 * i + j;
    asm volatile(
        "vmovdqu64 0(%0), %%zmm0\n vmovdqu64 64(%0), %%zmm15\n vmovdqu64 128(%0), %%zmm16\n"
        "vmovdqu64 192(%0), %%zmm31\n kmovw %3, %%k1\n"
        "1: pause\n cmpb $0, %4\n je 1b\n"
        "vmovdqu64 %%zmm0, 0(%1)\n vmovdqu64 %%zmm15, 64(%1)\n vmovdqu64 %%zmm16, 128(%1)\n"
        "vmovdqu64 %%zmm31, 192(%1)\n kmovw %%k1, %2\n"
        :
        : "r"(in), "r"(out), "m"(mask_after), "m"(mask), "m"(stop)
        : "memory", "xmm0", "xmm15", "xmm16", "xmm31", "k1");
    CHECK(!memcmp(in, out, sizeof(in)) && mask == mask_after);
}

static void *keeps_vectors(void *seed) {
    thread_is_set();
    if (__builtin_cpu_supports("avx512f"))
        keeps_zmm((long)seed);
    else if (__builtin_cpu_supports("avx"))
        keeps_ymm((long)seed);
    return NULL;
}

SCENARIO(widest_vector_registers_of_threads) {
    pthread_t first = start_thread(keeps_vectors, (void *)3);
    pthread_t second = start_thread(keeps_vectors, (void *)90);
    be_dumped();
    stop = 1;
    join(first);
    join(second);
}

/* Where the processor has protection keys: a key that forbids writing goes on to forbid it. */
SCENARIO(protection_keys) {
    unsigned a, b, c = 0, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(c & 1 << 4)) {
        /* The processor has none; that the kernel says so is all that can be seen. */
        CHECK(pkey_alloc(0, 0) == -1);
        be_dumped();
        CHECK(pkey_alloc(0, 0) == -1);
        return;
    }
    int key = TRY(pkey_alloc(0, 0));
    TRY(pkey_set(key, PKEY_DISABLE_WRITE));
    be_dumped();
    CHECK(pkey_get(key) == PKEY_DISABLE_WRITE);
}

SCENARIO(direction_and_other_flags) {
    unsigned long flags;
    asm volatile("std\n pushfq\n popq %0\n cld" : "=r"(flags));
    CHECK(flags & 1 << 10);
    be_dumped();
    asm volatile("pushfq\n popq %0" : "=r"(flags));
    CHECK(!(flags & 1 << 10));
}
