from .catalogs import (
    catalog_from_config as catalog_from_config,
    denoiser_of as denoiser_of,
    estimate_cost as estimate_cost,
    flow_of as flow_of,
    guided_rows as guided_rows,
    guided_rows_of as guided_rows_of,
    load_catalog as load_catalog,
    shapes_of as shapes_of,
)
from .classes import (
    check_pipeline as check_pipeline,
    default_scheduler as default_scheduler,
    missing_packages as missing_packages,
)
from .devices import (
    MemoryUse as MemoryUse,
    find_device as find_device,
    find_dtype as find_dtype,
    is_out_of_memory as is_out_of_memory,
    spare_memory as spare_memory,
    versions as versions,
)
from .errors import ModelError as ModelError, SizeError as SizeError, cause as cause
from .files import (
    RANDOM as RANDOM,
    config_of as config_of,
    fingerprint_of as fingerprint_of,
    folder_of as folder_of,
    identify as identify,
    is_file as is_file,
    lora_file as lora_file,
    read_config as read_config,
    source_like as source_like,
)
from .folders import (
    check_component as check_component,
    check_lora as check_lora,
    check_model as check_model,
    check_partner as check_partner,
)
from .formats import check_bounds as check_bounds, is_regular as is_regular
from .loading import (
    check_loaded as check_loaded,
    load_pipeline as load_pipeline,
    random_pipeline as random_pipeline,
)
from .reading import lost_words as lost_words
from .sizes import (
    default_side as default_side,
    outline_of as outline_of,
    wrong_side as wrong_side,
)
from .source import OFFLOADS as OFFLOADS, Lora as Lora, Source as Source, located as located
from .weights import fingerprint_of_weights as fingerprint_of_weights, weights_of as weights_of
