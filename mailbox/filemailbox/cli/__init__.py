"""The command `mailbox`: a thin layer of verbs over Mailbox.

    options     what a verb takes: arguments and options, said once
    verbs       which verb lives where
    run         from argv to an exit code
    parse       the quick reader of argv: it reads what is right and refuses the rest
    app         the same verbs as a Typer app: it says what is wrong        (the only user of typer)
    manual      help, and the pages that are made of it
    exits       exit codes, and which error leads to which
    show        text for people: tables, times, names and bodies that are safe to print
    identity    whose mail, and where
    body        the body of a message to send
    message     one message, shown

    boxes       init, remove
    send        send, request
    look        list, read, wait
    take        receive, ack, retry, reject, reply
    watch       watch, health
    dead        dead list, show, requeue, purge
    documents   doc list, get, put, edit, merge, patch, log, diff, watch, remove
    editing     a document changed by a command or in an editor
    agents      agents, status
    care        doctor, gc
    completion  completion

A verb is a plain function whose annotations say what it takes. `parse` and `app` are both made from them, so there is
one definition of every option; and since importing Typer takes longer than sending a message, it is imported only where
`parse` refuses: for mistakes.
"""
