"""One order of entries, agreed by a majority (Ongaro & Ousterhout 2014). Pure: messages and time in, outputs out."""
