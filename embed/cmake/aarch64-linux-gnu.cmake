# Cross-compiles for 64-bit ARM with Debian's and Ubuntu's compiler, and runs tests in QEMU:
#   apt-get install g++-aarch64-linux-gnu qemu-user
#   cmake -S embed -B build-aarch64 -G Ninja -DCMAKE_TOOLCHAIN_FILE=embed/cmake/aarch64-linux-gnu.cmake
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# Libraries and headers are those of the target. Packages may come from pip too, which names their
# folders; the interpreter and other programs are those of this machine.
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)

# ctest runs programs of the target with it. Without QEMU they can be built, and run elsewhere.
find_program(KDX_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
if(KDX_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${KDX_QEMU};-L;/usr/aarch64-linux-gnu")
endif()
