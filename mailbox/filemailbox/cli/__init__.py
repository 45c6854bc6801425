"""The command `mailbox`: a thin layer of verbs over Mailbox.

    options     what a verb takes: arguments and options, said once
    verbs       which verb lives where
    run         from argv to an exit code
    parse       the quick reader of argv: it reads what is right and refuses the rest
    app         the same verbs as a Typer app: help, errors, completion   (the only user of typer)
    exits       exit codes, and which error leads to which
    show        text for people: tables, times, names and bodies that are safe to print
    boxes       init, remove
    mail        send, list, read, receive

A verb is a plain function whose annotations say what it takes. `parse` and `app` are both made from them, so there is
one definition of every option; and since importing Typer takes longer than sending a message, it is imported only where
`parse` refuses: for help, for mistakes.
"""
