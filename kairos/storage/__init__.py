"""What outlives a process: the state folder and what is kept in it. Plain files, no loop, no log."""
