"""Who distrusts it: leaks in a table and its parts, copies of patients, what leaves the machine."""
