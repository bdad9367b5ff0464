"""Router Advertisements that tell hosts on chosen links of Pref64 and of the route to it.

Message and schedule are pure; socket, links and record touch the node; the advertiser joins them.
"""
