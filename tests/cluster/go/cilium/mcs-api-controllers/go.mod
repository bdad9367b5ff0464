// The one constant that Cilium uses of sigs.k8s.io/mcs-api/controllers, whose own module proxies
// may refuse.
module sigs.k8s.io/mcs-api/controllers

go 1.26.0
