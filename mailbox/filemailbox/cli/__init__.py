"""The command `mailbox`: a thin layer of verbs over Mailbox.

    options       arguments and options of a verb, each defined once
    verbs         the module of each verb
    run           from argv to an exit code
    fast_parser   the quick reader of argv: it reads valid arguments and refuses the rest
    typer_app     the same verbs as a Typer app: it explains mistakes        (the only user of typer)
    help_pages    help, and the pages that are made of it
    exit_codes    exit codes, and the errors that lead to them
    output        text for people: tables, times, names and bodies that are safe to print
    common        options of nearly every verb: the box and the root
    body          the body of a message to send
    show_message  one message as text or JSON

    boxes         init, remove
    send          send, request
    look        list, read, wait
    take        receive, ack, retry, reject, reply
    watch       watch, health
    dead        dead list, show, requeue, purge
    documents   doc list, get, put, edit, merge, patch, log, diff, watch, remove
    editing     a document changed by a command or in an editor
    agents      agents, status
    care        doctor, gc
    completion  completion

A verb is a plain function; its annotations define its arguments and options. `fast_parser` and `typer_app` both read
them, so each option has one definition. Importing Typer takes longer than sending a message, so it is imported only
for mistakes: if `fast_parser` refuses.
"""
