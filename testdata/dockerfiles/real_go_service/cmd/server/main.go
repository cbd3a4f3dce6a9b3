// Command server is the service of the case; what compiles it is a script.
package main
