"""Code inside every actor process, a supervisor's too: the loop, its mailbox, timers, links."""
