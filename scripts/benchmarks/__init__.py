"""What scripts/bench measures: one file for each thing. Each has measure(quick=…), which returns a table.Report.

table       figures, and how they are shown: as a table, as JSON
disks       folders to measure in: on a tmpfs, on an ext4 with a journal
raw         the bare loops that ours are compared with
backlog     how much waiting mail costs
box         put, drain and cycle; and the backlog
junk        a listener beside much that is no mail
seal        sealed and signed mail beside the bare calls of libsodium
receivers   the processes that wait for a message
wake        from a send to the callback; and what it costs to wait
"""
