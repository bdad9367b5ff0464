"""The clients' side: listeners, the server block that a query is for, and the response to it.
It may import resolver and everything below. It must never know the process around it: signals,
reloads, HTTP.
"""
