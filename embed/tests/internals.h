// The tests that kdx_internals runs. Each returns the exit status of the program.
#pragma once

int units();
int engines();
int bundle_files();
int manifests();
int signed_engines();
int selftests();
int tensorrt();
