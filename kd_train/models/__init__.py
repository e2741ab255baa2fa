"""Networks: pretrained backbones, teachers, students, and the pair that is trained."""
