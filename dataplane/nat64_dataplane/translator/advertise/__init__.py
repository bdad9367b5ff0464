"""Router Advertisements that tell hosts on chosen links of Pref64 and of the route to it.

Message and schedule are pure; socket, links and record touch the node; the advertiser joins them.
It may import the config's schema and what is below it; never eBPF, nor how the node is set up: the
agent says whether packets are translated.
"""
