"""The clients' side: listeners, the server block that matches a query, and its response.

It may import resolver and everything below. It must never know the process around it: signals,
reloads, HTTP.
"""
