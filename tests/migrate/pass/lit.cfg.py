# SPDX-License-Identifier: GPL-2.0-or-later
import os
import lit.formats

config.name = "chimera-pass"
config.test_format = lit.formats.ShTest(True)
config.suffixes = [".ll"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = lit_config.params["out"]
plugin = lit_config.params["plugin"]
config.substitutions += [
    ("%chimera", f"opt-19 -load-pass-plugin {plugin} -load {plugin} "
                 "-passes=chimera -S"),
    ("%va", f"opt-19 -load-pass-plugin {plugin} -load {plugin} "
            "-passes=chimera-va -S"),
    ("%check", f"not-19 opt-19 -load-pass-plugin {plugin} -load {plugin} "
               "-passes=chimera-check -disable-output"),
    ("FileCheck", "FileCheck-19"),
]
