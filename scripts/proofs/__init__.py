"""What scripts/prove proves: one file for each proof, with prove(), and what they stand on.

record      what was proved so far: progress, resuming, the summary
stepper     a piece of work in a process of its own, stopped at each system call: ptrace
apart       functions in processes of their own, that can be killed
disks       file systems of our own, from which the power can be taken
volume      a mail volume looked at from outside: what lies where, what must hold there
deeds       what is stepped through, and what may become of the messages
trial       one deed, struck and judged
kills       SIGKILL at each system call
faults      each system call fails in turn
power       power cuts
agents      the programs of the soak
history     a checker of what they wrote down: pure
soak        ten agents, and everything happens to them
crowd       a thousand boxes, a million messages
documents   writers of one document: kills, faults, power cuts
fuzz        random input
coverage    which branches the tests take
proof       which of these is what, in its long and its short form
"""
