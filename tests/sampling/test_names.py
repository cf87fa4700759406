"""Names of schedulers: those of diffusers and of image generators, with options."""

from __future__ import annotations

import pytest

from ablate.models.errors import ModelError
from ablate.sampling.names import named_in_full

KARRAS = "DPMSolverMultistepScheduler(use_karras_sigmas=true)"


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("ddim", "DDIMScheduler"),
        ("DDIMScheduler", "DDIMScheduler"),
        ("Euler", "EulerDiscreteScheduler"),
        ("Euler a", "EulerAncestralDiscreteScheduler"),
        ("euler_ancestral", "EulerAncestralDiscreteScheduler"),
        ("Heun", "HeunDiscreteScheduler"),
        ("LCM", "LCMScheduler"),
        ("UniPC", "UniPCMultistepScheduler"),
        ("PLMS", "PNDMScheduler"),
        ("DPM2 a", "KDPM2AncestralDiscreteScheduler"),
        ("DPM++ SDE", "DPMSolverSinglestepScheduler"),
        ("DPM++ 2M", "DPMSolverMultistepScheduler"),
        ("DPM++ 2M Karras", KARRAS),
        ("dpmpp_2m_karras", KARRAS),
        ("DPM++ 2M(use_karras_sigmas=true)", KARRAS),
        ("dpm_solver_multistep(use_karras_sigmas=true)", KARRAS),
        ("LMS Exponential", "LMSDiscreteScheduler(use_exponential_sigmas=true)"),
        ("DDIM sgm_uniform", 'DDIMScheduler(timestep_spacing="trailing")'),
        (
            "dpmpp_2m_sde_karras",
            'DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", use_karras_sigmas=true)',
        ),
        ("flow_match_euler_discrete(shift=3)", "FlowMatchEulerDiscreteScheduler(shift=3.0)"),
    ],
)
def test_all_ways_of_writing_it_have_one_full_form(text: str, full: str) -> None:
    assert named_in_full(text) == full
    assert named_in_full(full) == full


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dimm", "diffusers has no scheduler `dimm`, did you mean `ddim`?"),
        ("nothing like it", "it has, for example, `ddim`, `euler`"),
        ("", "diffusers has no scheduler ``; it has"),
        ("ddim(", "diffusers has no scheduler `ddim(`"),
        ("euler( sigma_min = 1,rho=3)", "has no option `rho`"),
        ("ddim(a)", "must be a name, or a name with options such as"),
        ("ddim(a=b)", "must be a name, or a name with options such as"),
        ("euler(x=" + "[" * 5000 + ")", "must be a name, or a name with options such as"),
        ("dpm_solver_multistep(use_karas_sigmas=true)", "did you mean `use_karras_sigmas`?"),
        ("euler(use_karras_sigmas=1)", "`use_karras_sigmas` must be true or false or null, not 1"),
        ('euler(rescale_betas_zero_snr="x")', 'must be true or false, not "x"'),
        ("euler(num_train_timesteps=1.5)", "must be a whole number, not 1.5"),
        ('dpm_solver_multistep(algorithm_type="x")', "must be `"),
        ("ddim(num_train_timesteps=1000000000000)", "is 1,000,000,000,000; 2,097,152 is the most"),
        ("ddim(beta_start=NaN)", "DDIMScheduler: `beta_start` is nan"),
    ],
)
def test_a_wrong_name_or_option_is_answered_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ModelError) as error:
        named_in_full(text)
    assert sentence in str(error.value)
    assert len(str(error.value)) < 700
