"""Answers by question, with TTLs that count down.

It may import instrumentation, message and settings. It must never know where answers come from: no
upstream, no rules of RFC 6147, no clock of its own.
"""
