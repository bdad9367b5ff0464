// Package controllers has the one constant that Cilium uses of the package of this name.
package controllers

// DerivedServiceAnnotation names the Service that was made for a ServiceImport.
const DerivedServiceAnnotation = "multicluster.kubernetes.io/derived-service"
