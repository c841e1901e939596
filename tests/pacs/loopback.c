/* Preloaded into the servers that the tests start: whatever address they would listen on, they
   listen on loopback. Orthanc and the tools of DCMTK have no option for it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int bind(int descriptor, const struct sockaddr *address, socklen_t length) {
    int (*plain)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    if (address->sa_family == AF_INET) {
        struct sockaddr_in here;
        memcpy(&here, address, sizeof here);
        here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return plain(descriptor, (struct sockaddr *)&here, sizeof here);
    }
    if (address->sa_family == AF_INET6) {
        struct sockaddr_in6 here;
        memcpy(&here, address, sizeof here);
        here.sin6_addr = in6addr_loopback;
        return plain(descriptor, (struct sockaddr *)&here, sizeof here);
    }
    return plain(descriptor, address, length);
}
