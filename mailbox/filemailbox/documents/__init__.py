"""Shared documents: state that several agents read and change, without losing a change.

A document is a folder of versions. To change it is to add the next version: a draft is written and hard-linked under
the next number, and link(2) fails if another writer has taken that number. So the kernel compares and swaps; no lock
is held, and no server runs. Who is built on whom, from the ground up:

    name        names of documents: pure
    version     one version: encode, decode, digest: pure
    signature   a version that proves its author: pure
    change      merge patch, JSON patch, three-way merge, diff: pure
    folders     a document's folders: made, opened, removed
    checkpoint  how far a reader has verified the history
    history     the run of versions: its end, the next one, the older ones
    author      what proves the author of a version
    document    Document, the face that users see: get, put, update, history, watch
    upkeep      trimming, what is left over, what is wrong: for gc, doctor and status

The way of one change: document.put → version.encode → signature → history.add (write, link, flush) → ring ⇒ watchers.
`FORMAT.md`, *Shared documents*, is the contract of the files on disk.
"""
