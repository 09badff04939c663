"""A build is never chosen exactly when the node's own rule passes over it on every device that it suits."""

from hypothesis import given
from hypothesis import strategies as st

from hub.core.publish.unreachable_variants import never_chosen
from schemas.errors import Refused
from schemas.manifest import Block, File, Manifest, Requirements, Tensor, Variant
from schemas.state import Profile
from schemas.variant_choice import choose

ARCHES, PROVIDERS = ("x86_64", "aarch64", "armv7l"), ("CPU", "CUDA")
FILE = File(path="m", bytes=1, digest=bytes(32), blocks=(Block(bytes(32), 1),))
TENSOR = Tensor(name="x", datatype="FP32", shape=(1,))
subsets = lambda values: st.lists(st.sampled_from(values), unique=True, max_size=2).map(tuple)  # noqa: E731

requirements = st.builds(
    Requirements,
    arch=subsets(ARCHES),
    memory_bytes_min=st.sampled_from((0, 100, 200)),
    providers=subsets(PROVIDERS),
    cores_min=st.sampled_from((None, 1, 4)),
    labels=st.sampled_from((None, {"room": "a"}, {"room": "b"}, {"room": "a", "floor": "1"})),
)
PROFILES = [
    Profile(arch=arch, cores=cores, memory_bytes=memory, providers=providers, labels=labels, runtimes=("onnx",))
    for arch in ARCHES
    for cores in (1, 4)
    for memory in (50, 100, 200)
    for providers in ((), ("CPU",), PROVIDERS)
    for labels in ({}, {"room": "a"}, {"room": "b"}, {"room": "a", "floor": "1"})
]


@given(st.lists(requirements, min_size=1, max_size=4))
def test_what_is_never_chosen_suits_no_device_that_an_earlier_build_does_not(listed: list[Requirements]) -> None:
    variants = tuple(Variant(name=f"v{number}", requirements=one, files=(FILE,)) for number, one in enumerate(listed))
    manifest = Manifest(model="m", version="1.0.0", created=0, inputs=(TENSOR,), outputs=(TENSOR,), variants=variants)

    taken = set()
    for profile in PROFILES:
        try:
            taken.add(choose(manifest, profile).name)
        except Refused:
            continue
    assert not taken & never_chosen(variants).keys()


def test_a_build_without_requirements_hides_every_later_one_of_its_runtime() -> None:
    variants = [
        Variant(name="int8", requirements=Requirements(memory_bytes_min=5), files=(FILE,)),
        Variant(name="fp32", files=(FILE,)),
        Variant(name="fp16", requirements=Requirements(arch=("aarch64",)), files=(FILE,)),
        Variant(name="lite", runtime="litert", files=(FILE,)),
    ]

    assert never_chosen(variants) == {"fp16": "fp32"}
