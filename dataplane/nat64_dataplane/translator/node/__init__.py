"""The node as the kernel shows it by netlink and sysctl, and the changes that a translator needs.

`facts` is read, `plan` says what must change (pure), `netlink_host` changes it. Imports the config
and the host view; must never know a map, a session or who reads the agent's reports.
"""
