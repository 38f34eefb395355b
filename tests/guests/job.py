# A job of a shell in one terminal, dumped and restored by a shell in another one.
# Arguments: dedump, criu, a folder for images.
import fcntl, os, pty, select, signal, subprocess, sys, termios, time

dedump, criu, images = sys.argv[1:]
PATIENCE = 30


class Shell:
    """An interactive shell in a terminal of its own."""

    def __init__(self):
        self.master, slave = pty.openpty()
        settings = termios.tcgetattr(slave)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        self.said = b''
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for fd in range(3):
                os.dup2(slave, fd)
            os.closerange(3, 100)
            os.execvp('bash', ['bash', '--norc', '--noprofile', '--noediting', '-i'])
        os.close(slave)

    def types(self, line):
        os.write(self.master, line.encode() + b'\n')

    def waits_for(self, text):
        end = time.monotonic() + PATIENCE
        while text.encode() not in self.said:
            ready, _, _ = select.select([self.master], [], [], 0.1)
            if ready:
                self.said += os.read(self.master, 4096)
            if time.monotonic() > end:
                print('BAD no', text, 'in', self.said.decode(), flush=True)
                self.ends()
                sys.exit(1)
        return self.said.decode()

    def ends(self):
        os.close(self.master)
        for signo in (signal.SIGHUP, signal.SIGKILL):
            os.kill(self.pid, signo)
        os.waitpid(self.pid, 0)


first = Shell()
first.types('''sh -c 'echo job $$ here; while read line; do echo "got $line"; done' ''')
said = first.waits_for(' here')
job = int(said.split('job ')[-1].split()[0])
first.types('one')
first.waits_for('got one')
dump = [dedump, 'dump', '-t', str(job), '-D', images, '--shell-job']
if subprocess.run(dump[:-1], stderr=subprocess.DEVNULL).returncode != 1:
    print('BAD dumped without --shell-job', flush=True)
if subprocess.run(dump).returncode != 0:
    print('BAD dump', flush=True)
first.types('echo gone $((40 + 2))')
first.waits_for('gone 42')
first.ends()

second = Shell()
restore = f'{criu} restore --no-default-config --shell-job -D {images} -v4 -o restore.log'
second.types(f'{restore}; echo left $?')
# The job may not be there yet: what is typed waits in the terminal.
second.types('two')
second.waits_for('got two')
# End of input: the job ends, and so does its restorer.
os.write(second.master, b'\x04')
second.waits_for('left 0')
second.ends()
print('done', flush=True)
