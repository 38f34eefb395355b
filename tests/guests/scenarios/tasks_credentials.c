/* Users, groups, capabilities, securebits, and what goes with them. */
#include "tasks.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/resource.h>

static const char *fields[] = {"Uid",    "Gid",    "Groups", "CapInh", "CapPrm",
                               "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"};

/* Everything that status tells of the credentials of the calling thread. */
static char *credentials(void) {
    char *text = calloc(1, 4096);
    for (size_t i = 0; i < COUNT(fields); i++) {
        strcat(strcat(text, status_field(fields[i])), "\n");
    }
    return text;
}

static void same_after_the_dump(void) {
    char *before = credentials();
    int bits = TRY(prctl(PR_GET_SECUREBITS));
    child_is_set();
    wait_to_go();
    char *after = credentials();
    if (strcmp(before, after)) dprintf(1, "before:\n%safter:\n%s", before, after);
    CHECK(!strcmp(before, after));
    CHECK(prctl(PR_GET_SECUREBITS) == bits);
}

static void in_a_child(void (*run)(void)) {
    pid_t pid = start_child(run);
    be_dumped();
    reap_child(pid);
}

/* Two words each: the first for capabilities 0 to 31. */
static void set_capabilities(unsigned long permitted, unsigned long effective, unsigned long inheritable) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {
        {effective, permitted, inheritable},
        {effective >> 32, permitted >> 32, inheritable >> 32},
    };
    TRY(syscall(SYS_capset, &header, data));
}

static unsigned long permitted(void) { return strtoul(status_field("CapPrm"), NULL, 16); }
#define CAP(name) (1UL << CAP_##name)

static void as_an_ordinary_user(void) {
    TRY(setgroups(0, NULL));
    TRY(setresgid(65534, 65534, 65534));
    TRY(setresuid(65534, 65534, 65534));
    CHECK(permitted() == 0);
    same_after_the_dump();
}
SCENARIO(ordinary_user) { in_a_child(as_an_ordinary_user); }

static void with_four_users(void) {
    TRY(setresgid(11, 12, 13));
    TRY(setfsgid(14));
    TRY(setresuid(21, 0, 23));
    TRY(setfsuid(24));
    CHECK(!strcmp(status_field("Gid"), "11\t12\t13\t14"));
    same_after_the_dump();
}
SCENARIO(four_different_users_and_groups) { in_a_child(with_four_users); }

static void with_many_groups(void) {
    gid_t groups[300];
    for (size_t i = 0; i < COUNT(groups); i++) groups[i] = 100000 - 13 * i;
    TRY(setgroups(COUNT(groups), groups));
    gid_t before[300], after[300];
    TRY(getgroups(300, before));
    child_is_set();
    wait_to_go();
    CHECK(getgroups(300, after) == 300);
    CHECK(!memcmp(before, after, sizeof(before)));
}
SCENARIO(three_hundred_groups) { in_a_child(with_many_groups); }

static void with_some_capabilities(void) {
    set_capabilities(CAP(NET_ADMIN) | CAP(CHOWN) | CAP(SYS_PTRACE), CAP(CHOWN), CAP(SYS_PTRACE));
    same_after_the_dump();
}
SCENARIO(some_capabilities) { in_a_child(with_some_capabilities); }

static void with_a_bound(void) {
    int dropped[] = {CAP_SYS_MODULE, CAP_SYS_BOOT, CAP_BPF, CAP_AUDIT_CONTROL};
    for (size_t i = 0; i < COUNT(dropped); i++) TRY(prctl(PR_CAPBSET_DROP, dropped[i]));
    same_after_the_dump();
}
SCENARIO(bounded_capabilities) { in_a_child(with_a_bound); }

static void with_ambient_ones(void) {
    TRY(prctl(PR_SET_KEEPCAPS, 1));
    TRY(setresgid(1000, 1000, 1000));
    TRY(setresuid(1000, 1000, 1000));
    unsigned long set = CAP(NET_BIND_SERVICE) | CAP(SYS_NICE);
    set_capabilities(set, set, set);
    TRY(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
    same_after_the_dump();
}
SCENARIO(ambient_capabilities_of_a_user) { in_a_child(with_ambient_ones); }

static void with_bits(void) {
    TRY(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP));
    same_after_the_dump();
}
SCENARIO(securebits) { in_a_child(with_bits); }

static void with_locked_bits(void) {
    TRY(prctl(PR_SET_SECUREBITS,
              SECURE_ALL_BITS | SECURE_ALL_LOCKS | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED));
    same_after_the_dump();
}
SCENARIO(all_securebits_locked) { in_a_child(with_locked_bits); }

static void keeps_capabilities(void) {
    TRY(prctl(PR_SET_KEEPCAPS, 1));
    child_is_set();
    wait_to_go();
    CHECK(prctl(PR_GET_KEEPCAPS) == 1);
}
SCENARIO(capabilities_to_be_kept) { in_a_child(keeps_capabilities); }

static void without_new_privileges(void) {
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    same_after_the_dump();
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
}
SCENARIO(no_new_privileges) { in_a_child(without_new_privileges); }

/* The raw calls change one thread only. */
static void *as_another_user(void *number) {
    long id = (long)number;
    gid_t groups[] = {id, id + 1};
    TRY(syscall(SYS_setgroups, 2, groups));
    TRY(syscall(SYS_setresgid, id, id, id));
    TRY(syscall(SYS_setresuid, id, id, id));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    char *before = credentials();
    thread_is_set();
    wait_to_go();
    CHECK(!strcmp(before, credentials()));
    CHECK(syscall(SYS_geteuid) == id && syscall(SYS_getegid) == id);
    return NULL;
}

SCENARIO(users_of_threads) {
    pthread_t first = start_thread(as_another_user, (void *)101);
    pthread_t second = start_thread(as_another_user, (void *)202);
    char *before = credentials();
    be_dumped();
    join(first);
    join(second);
    CHECK(!strcmp(before, credentials()) && geteuid() == 0);
}

static void user_with_everything(void) {
    TRY(setgroups(0, NULL));
    TRY(setresgid(65534, 65534, 65534));
    TRY(setresuid(65534, 65534, 65534));
    struct rlimit core = {0, 4096}, files = {64, 512}, stack = {1 << 20, 8 << 20};
    TRY(setrlimit(RLIMIT_CORE, &core));
    TRY(setrlimit(RLIMIT_NOFILE, &files));
    TRY(setrlimit(RLIMIT_STACK, &stack));
    TRY(setpriority(PRIO_PROCESS, 0, 5));
    TRY(prctl(PR_SET_NAME, "nobody's"));
    TRY(prctl(PR_SET_DUMPABLE, 1));
    void *memory = malloc(100000);
    memset(memory, 'm', 100000);
    same_after_the_dump();
    struct rlimit now;
    TRY(getrlimit(RLIMIT_CORE, &now));
    CHECK(now.rlim_cur == 0 && now.rlim_max == 4096);
    TRY(getrlimit(RLIMIT_NOFILE, &now));
    CHECK(now.rlim_cur == 64 && now.rlim_max == 512);
    TRY(getrlimit(RLIMIT_STACK, &now));
    CHECK(now.rlim_cur == 1 << 20 && now.rlim_max == 8 << 20);
    CHECK(getpriority(PRIO_PROCESS, 0) == 5);
    CHECK(((char *)memory)[99999] == 'm');
}
SCENARIO(ordinary_user_with_limits) { in_a_child(user_with_everything); }
