/* Terminals, both ends of them in the tree. */
#include "scenario.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

static int master, slave;

static int new_master(void) {
    int fd = TRY(posix_openpt(O_RDWR | O_NOCTTY));
    TRY(grantpt(fd));
    TRY(unlockpt(fd));
    return fd;
}

static void new_pair(void) {
    master = new_master();
    slave = TRY(open(ptsname(master), O_RDWR | O_NOCTTY));
}

static void be_raw(void) {
    struct termios settings;
    TRY(tcgetattr(slave, &settings));
    cfmakeraw(&settings);
    TRY(tcsetattr(slave, TCSANOW, &settings));
}

static void say(int fd, const char *text) {
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static void expect(int fd, const char *text) {
    char bytes[4096];
    size_t found = 0;
    while (found < strlen(text)) {
        struct pollfd one = {fd, POLLIN, 0};
        CHECK(TRY(poll(&one, 1, 10000)) == 1);
        ssize_t got = TRY(read(fd, bytes + found, strlen(text) - found));
        CHECK(got > 0);
        found += got;
    }
    CHECK(!memcmp(bytes, text, found));
}

static void expect_nothing(int fd) {
    struct pollfd one = {fd, POLLIN, 0};
    CHECK(TRY(poll(&one, 1, 0)) == 0);
}

SCENARIO(terminal_with_all_its_settings) {
    new_pair();
    struct termios before, after;
    TRY(tcgetattr(slave, &before));
    before.c_iflag ^= IXOFF | INLCR;
    before.c_oflag ^= OLCUC;
    before.c_lflag ^= ECHOE | TOSTOP;
    before.c_cc[VINTR] = 7;
    before.c_cc[VTIME] = 9;
    before.c_cc[VEOL2] = 11;
    TRY(tcsetattr(slave, TCSANOW, &before));
    TRY(tcgetattr(slave, &before));
    struct winsize size = {33, 77, 5, 6}, found;
    TRY(ioctl(master, TIOCSWINSZ, &size));
    int number = 0, now = 0;
    TRY(ioctl(master, TIOCGPTN, &number));
    be_dumped();
    TRY(tcgetattr(slave, &after));
    CHECK(!memcmp(&before.c_iflag, &after.c_iflag, 4 * sizeof(tcflag_t)));
    CHECK(!memcmp(before.c_cc, after.c_cc, 19));
    TRY(ioctl(slave, TIOCGWINSZ, &found));
    CHECK(!memcmp(&size, &found, sizeof(size)));
    TRY(ioctl(master, TIOCGPTN, &now));
    CHECK(now == number);
    say(slave, "out");
    expect(master, "OUT");
}

SCENARIO(terminal_that_is_raw) {
    new_pair();
    be_raw();
    be_dumped();
    say(master, "in\r\n\3");
    expect(slave, "in\r\n\3");
    say(slave, "out\r\n");
    expect(master, "out\r\n");
}

SCENARIO(terminal_with_data_both_ways) {
    new_pair();
    be_raw();
    say(master, "to the slave");
    say(slave, "to the master\r\n");
    be_dumped();
    expect(slave, "to the slave");
    expect(master, "to the master\r\n");
    expect_nothing(slave);
    expect_nothing(master);
}

SCENARIO(terminal_with_lines_typed_ahead) {
    new_pair();
    struct termios settings;
    TRY(tcgetattr(slave, &settings));
    settings.c_lflag &= ~ECHO;
    TRY(tcsetattr(slave, TCSANOW, &settings));
    say(slave, "prompt\n");
    say(master, "one\ntwo\nhal");
    be_dumped();
    expect(master, "prompt\r\n");
    expect(slave, "one\n");
    expect(slave, "two\n");
    expect_nothing(slave);
    say(master, "f\n");
    expect(slave, "half\n");
    expect_nothing(master);
}

SCENARIO(terminal_with_flags_of_its_own) {
    master = TRY(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
    TRY(unlockpt(master));
    slave = TRY(open(ptsname(master), O_RDWR | O_NOCTTY));
    int other = TRY(open(ptsname(master), O_WRONLY | O_NOCTTY | O_NONBLOCK));
    int reader = TRY(open(ptsname(master), O_RDONLY | O_NOCTTY));
    be_dumped();
    CHECK(fcntl(master, F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(master, F_GETFL) & O_NONBLOCK);
    CHECK(!(fcntl(slave, F_GETFL) & O_NONBLOCK));
    CHECK((fcntl(other, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_WRONLY | O_NONBLOCK));
    CHECK((fcntl(reader, F_GETFL) & O_ACCMODE) == O_RDONLY);
    say(other, "out");
    expect(master, "out");
    say(master, "in\n");
    expect(reader, "in\n");
}

SCENARIO(terminals_one_after_the_other) {
    int masters[5], slaves[5];
    for (int i = 0; i < 5; i++) {
        new_pair();
        be_raw();
        masters[i] = master;
        slaves[i] = slave;
    }
    /* Two of them are gone: the others keep their numbers. */
    close(masters[1]);
    close(slaves[1]);
    close(slaves[3]);
    int number;
    TRY(ioctl(masters[3], TIOCGPTN, &number));
    be_dumped();
    int now;
    TRY(ioctl(masters[3], TIOCGPTN, &now));
    CHECK(now == number);
    int all[] = {0, 2, 4};
    for (int i = 0; i < 3; i++) {
        char text[2] = {'0' + all[i], 0};
        say(masters[all[i]], text);
        expect(slaves[all[i]], text);
    }
    expect_nothing(slaves[0]);
}

SCENARIO(terminal_without_a_slave) {
    master = new_master();
    be_dumped();
    slave = TRY(open(ptsname(master), O_RDWR | O_NOCTTY));
    say(slave, "late");
    expect(master, "late");
}

SCENARIO(terminal_that_is_locked) {
    master = TRY(posix_openpt(O_RDWR | O_NOCTTY));
    be_dumped();
    CHECK(open(ptsname(master), O_RDWR | O_NOCTTY) == -1 && errno == EIO);
    TRY(unlockpt(master));
    TRY(open(ptsname(master), O_RDWR | O_NOCTTY));
}

SCENARIO(terminal_in_packet_mode) {
    new_pair();
    be_raw();
    int on = 1;
    TRY(ioctl(master, TIOCPKT, &on));
    be_dumped();
    on = 0;
    TRY(ioctl(master, TIOCGPKT, &on));
    CHECK(on == 1);
    say(slave, "x");
    char bytes[8];
    CHECK(read(master, bytes, 8) == 2 && bytes[0] == TIOCPKT_DATA && bytes[1] == 'x');
}

SCENARIO(terminal_that_hung_up) {
    new_pair();
    close(master);
    be_dumped();
    char byte;
    CHECK(read(slave, &byte, 1) == 0);
    CHECK(write(slave, "x", 1) == -1 && errno == EIO);
}

/* In a session of its own, led by us, on the slave. */
static void lead(void) {
    TRY(setsid());
    TRY(ioctl(slave, TIOCSCTTY, 0));
    close(master);
}

static void leader_that_is_interrupted(void) {
    lead();
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigaddset(&interrupt, SIGWINCH);
    TRY(sigprocmask(SIG_BLOCK, &interrupt, NULL));
    CHECK(tcgetsid(slave) == getpid());
    int terminal = TRY(open("/dev/tty", O_RDWR));
    say(slave, "leads");
    int signal;
    CHECK(sigwait(&interrupt, &signal) == 0 && signal == SIGINT);
    CHECK(sigwait(&interrupt, &signal) == 0 && signal == SIGWINCH);
    CHECK(tcgetsid(terminal) == getpid());
    CHECK(tcgetpgrp(slave) == getpgrp());
    say(terminal, "interrupted");
}

SCENARIO(terminal_that_controls_a_session) {
    new_pair();
    pid_t child = in_child(leader_that_is_interrupted);
    expect(master, "leads");
    be_dumped();
    say(master, "\3");
    expect(master, "^C");
    struct winsize size = {11, 22, 0, 0};
    TRY(ioctl(master, TIOCSWINSZ, &size));
    expect(master, "interrupted");
    reap_child(child);
}

static void background(void) {
    TRY(setpgid(0, 0));
    wait_to_go();
}

static void foreground(void) {
    char bytes[16];
    CHECK(read(slave, bytes, 16) == 6 && !memcmp(bytes, "hello\n", 6));
}

static void leader_of_jobs(void) {
    lead();
    pid_t back = in_child(background);
    setpgid(back, back);
    pid_t fore = in_child(foreground);
    setpgid(fore, fore);
    signal(SIGTTOU, SIG_IGN);
    TRY(tcsetpgrp(slave, fore));
    say(slave, "ready");
    int status;
    CHECK(waitpid(fore, &status, 0) == fore && status == 0);
    TRY(tcsetpgrp(slave, getpgrp()));
    reap_child(back);
}

SCENARIO(terminal_with_jobs) {
    new_pair();
    pid_t child = in_child(leader_of_jobs);
    expect(master, "ready");
    be_dumped();
    expect_nothing(master);
    usleep(50000);
    say(master, "hello\n");
    reap_child(child);
}

static void shell(void) {
    lead();
    TRY(dup2(slave, 0));
    TRY(dup2(slave, 1));
    TRY(dup2(slave, 2));
    close(slave);
    TRY(setenv("PS1", "$ ", 1));
    TRY(execlp("bash", "bash", "--norc", "--noprofile", "-i", NULL));
}

/* Waits until the terminal has shown a text; an echo of the command is not one. */
static void until(const char *text) {
    static char shown[65536];
    static size_t length;
    while (!strstr(shown, text)) {
        struct pollfd one = {master, POLLIN, 0};
        CHECK(TRY(poll(&one, 1, 20000)) == 1);
        ssize_t got = TRY(read(master, shown + length, sizeof(shown) - 1 - length));
        CHECK(got > 0);
        length += got;
        shown[length] = 0;
    }
    char *behind = strstr(shown, text) + strlen(text);
    length -= behind - shown;
    memmove(shown, behind, length + 1);
}

SCENARIO(terminal_with_a_shell_and_a_pipeline) {
    new_pair();
    pid_t child = in_child(shell);
    close(slave);
    until("$ ");
    say(master, "seq 1000000000 | while read n; do [ $n != 20 ] || echo at 2'0'; [ -e go ] && "
                "break; [ $n -lt 30 ] || sleep 0.01; done; echo went$((1 + 1))through\n");
    until("at 20\r\n");
    be_dumped();
    until("went2through");
    until("$ ");
    /* Said when both sides are programs of their own: a shell that has yet to become one loses \3. */
    say(master, "sh -c 'echo in$((1 + 1))side; exec sleep 1000' | sh -c 'read word; echo $word; exec cat'\n");
    until("in2side");
    say(master, "\3");
    until("^C");
    until("$ ");
    say(master, "sleep 1000 & jobs; kill %1; wait; echo at$((2 + 2))end\n");
    until("Running");
    until("at4end");
    say(master, "exit 7\n");
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

