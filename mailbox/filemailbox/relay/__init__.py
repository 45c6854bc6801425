"""Mail between volumes: by a policy, with a record of every decision. It never imports receive/ or the client.

audit_format audit_log    what happened: signed, chained records
policy policy_file        the rules for senders and recipients, and relay.toml, their file
limits accepted           rates and quotas; what was carried before
carrier                   the seam: where mail comes from and goes to
volume inbox outbox local the carrier for the volumes of this host
sender outages records    an agent's outbox as a queue; recipients in trouble; the words of a record
batch transfer            what is staged, flushed and delivered together; the way of one message
status relay              what the relay reports of itself; the loop
"""
