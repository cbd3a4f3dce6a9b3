// Package conformance holds tests that compare the whole command with what is written down and with
// what others make of the same input. There is nothing else in it.
//
// The inputs are the folders of testdata/dockerfiles. Each is a build context with a Dockerfile, whose first
// comment says what it shows; "#opt:" comments in it are options of the build, in which $CONTEXT is the folder and
// $WEB the address of a server with what is in its folder web. What cannot be checked
// in, like a fifo or a hard link, is made by prepare.sh in a copy of the folder; $CASES is where all cases are. expect.txt is the outcome:
// config, history, and what is in the file system beyond the tests' base image, or the error. A graph.golden is the
// graph of the case, for the tests of package lower.
//
//   - TestExpected builds every case, as root and as an ordinary user, and compares with expect.txt, which -update writes.
//   - TestBuildah builds every case with buildah too, and compares the images. What differs, and why, is in
//     testdata/dockerfiles/differences.txt.
//   - TestMatrix builds workloads in every kind of place that there is a way to build in, and compares the images' digests.
//   - The other tests hand images to the programs that people use: skopeo, podman, umoci, dockerd, a registry.
//
// Tests of a program that is not installed are skipped; so are, with -short, all that need one.
package conformance
