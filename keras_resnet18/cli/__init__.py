"""The command line: the options of each verb, and the tables that are printed."""
