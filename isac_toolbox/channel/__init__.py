"""Arrays, geometry, environments and the uplink; knows no estimator."""

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, AntennaArray, ArbitraryArray, UniformPlanarArray
from isac_toolbox.channel.cdl import CDL_MODELS, cdl_channel
from isac_toolbox.channel.element_response import ElementResponse
from isac_toolbox.channel.environment import Environment, draw_environment, load_traced
from isac_toolbox.channel.evolution import ChannelEvolution
from isac_toolbox.channel.hardware import Hardware
from isac_toolbox.channel.modulation import bit_labels, qam_constellation
from isac_toolbox.channel.motion import Motion
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.channel.panels import PanelArray
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.channel.plausibility import ImplausibleValueWarning
from isac_toolbox.channel.process import ConstantVelocity
from isac_toolbox.channel.rays import Rays
from isac_toolbox.channel.sounded import observation_from_channel
from isac_toolbox.channel.uplink import noise_variance_for_snr

__all__ = [
    "CDL_MODELS",
    "SPEED_OF_LIGHT_M_S",
    "AntennaArray",
    "ArbitraryArray",
    "ChannelEvolution",
    "ConstantVelocity",
    "ElementResponse",
    "Environment",
    "Hardware",
    "ImplausibleValueWarning",
    "Motion",
    "PanelArray",
    "Rays",
    "UniformPlanarArray",
    "UnlocatedPaths",
    "UplinkObservation",
    "bit_labels",
    "cdl_channel",
    "draw_environment",
    "load_traced",
    "noise_variance_for_snr",
    "observation_from_channel",
    "qam_constellation",
]
