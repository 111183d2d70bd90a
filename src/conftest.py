"""What all tests need of the process they run in."""

import signal

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job: Ctrl-C would reach no test
    signal.signal(signal.SIGINT, signal.default_int_handler)
