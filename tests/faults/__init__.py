"""Faults the engine must survive, each judged by one oracle, `assert_world`. Where each is tested:

F1 F2 F3 F16 F25   test_kill            killed at random, at each step, drivers, samples that kill, signals
F4                 test_nodes           a node removed or frozen; test_joining (fuzz): one that joins, one without the program
F5 F6 F7 F12 F13   test_damage          writers that raise, racers, unsure commits, full disks, damaged files
F13                test_repair          sound files whose commit, index or makers are lost
F8 F9 F10 F11      test_s3              an object store that fails, refuses, cuts short, or loses its client
F14                tests/pipeline/ingest/test_odd_images, and through every labeler tests/labelers/corpus
F15 F19 F20 F24    test_labelers        labelers that misbehave, settings that change, inputs read half
F17                tests/pipeline/execution/test_ray_executor: an actor of a pool of one dies
F18 F22            test_damage          inputs that changed, clocks, read-only storage, names that leave the root
F21 F23            tests/trainer/test_loader: a modality regenerated while a reader trains, loaders that resume

`test_schedules` draws random schedules of kills, damage, regeneration and collection.
"""
