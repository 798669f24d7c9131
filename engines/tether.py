"""Runs one client tool that must not outlive the service: `python tether.py FD ARGV…`.

A program of its own, on the standard library alone and quick to start. FD is the read end of a pipe whose
write end only the service has: when it closes (the service ended, even by `kill -9`) the whole process group
is killed, the tool's own workers included. Ends as the tool ended, by the same exit code or signal.
"""

import ctypes
import os
import resource
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1  # linux/prctl.h
EXIT_CANNOT_RUN = 127


def kill_group_at_end_of(descriptor: int) -> None:
    """Wait for the end of the pipe, then kill everything in this process group, ourselves included."""
    while os.read(descriptor, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def become(argv: list[str], die_with_parent: object) -> None:
    """Turn this child into the tool; does not return."""
    try:
        for number in (signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        if callable(die_with_parent):
            die_with_parent(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.execv(argv[0], argv)  # noqa: S606  no shell is the point
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error.strerror}\n".encode(errors="replace"))
    finally:
        os._exit(EXIT_CANNOT_RUN)


def end_like(status: int) -> None:
    """End this process as a waited-for child did."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the tool may have left a core, the guard must not
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


def main() -> None:
    descriptor, argv = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(descriptor, False)
    # A handler, not SIG_IGN: the tool would inherit that, and the same signal to the group is to end it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    child = os.fork()
    if child == 0:
        become(argv, prctl)
    for inherited in (0, 1):  # else readers of the tool's output would wait for the guard's copy to close
        os.close(inherited)
    threading.Thread(target=kill_group_at_end_of, args=(descriptor,), daemon=True).start()
    end_like(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
