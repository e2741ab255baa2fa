#include "backend.h"

namespace kdx::embed {

const std::vector<BackendKind> &backend_kinds() {
    static const std::vector<BackendKind> kinds = {
#if defined(KDX_WITH_OPENVINO)
        openvino_kind(),
#endif
#if defined(KDX_WITH_TENSORRT)
        tensorrt_kind(),
#endif
    };
    return kinds;
}

}  // namespace kdx::embed
